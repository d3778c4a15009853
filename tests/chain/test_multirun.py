"""One command, several recipes: the variants share what is the same."""

import json

from tests.chain.chain import TIMEOUT_S, UNTIMED, command, environment


def test_two_variants_share_all_stages_before_their_difference(mini, tmp_path) -> None:
    import subprocess

    words = [
        "run",
        "-m",
        "recipe=quickstart_mini",
        UNTIMED,
        "rl.steps=2",
        "rl.seeds=[0]",
        "rl.grpo.kl_coef=0.001,0.1",
        f"store={mini.store}",
        f"hydra.sweep.dir={tmp_path}",
    ]
    done = subprocess.run(
        command(*words), capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    manifests = [json.loads((tmp_path / str(number) / "manifest.json").read_text()) for number in range(2)]
    for manifest in manifests:
        reused = [stage["name"] for stage in manifest["stages"] if stage["reused"]]
        assert reused[:4] == ["data", "pretrain", "synth", "sft"]
    keys = [{stage["name"]: stage["key"] for stage in manifest["stages"]} for manifest in manifests]
    assert keys[0]["sft"] == keys[1]["sft"]
    assert keys[0]["rl"] != keys[1]["rl"]
    assert all((tmp_path / str(number) / "report.html").is_file() for number in range(2))
