import subprocess
import sys
import threading
import time

from portable.job.lock import exclusive


def test_a_second_holder_waits(tmp_path) -> None:
    order: list[str] = []

    def second() -> None:
        with exclusive(tmp_path / "x"):
            order.append("second")

    with exclusive(tmp_path / "x"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]


def test_a_killed_holder_leaves_no_lock(tmp_path) -> None:
    code = (
        "import sys, time, pathlib\nfrom portable.job.lock import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1])):\n print('held', flush=True)\n time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    holder.kill()
    holder.wait()
    with exclusive(tmp_path / "x"):
        pass
