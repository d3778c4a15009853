"""Edits: safe ones are made, unsafe ones on demand, and everything else stays as it was, byte by byte."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest

from portable.core.errors import StorageError
from portable.lint.fix.apply import diff, mend, write
from portable.lint.settings import Settings

CHOICE = 'device = torch.device("cuda" if torch.cuda.is_available() else "cpu")\n'
SAFE = {
    "move": ("model.cuda()", "model.to(device)"),
    "move without blocking": ("x = a.cuda( non_blocking=True )", "x = a.to(device,  non_blocking=True )"),
    "move in a chain": ("f(x.cuda()).sum()", "f(x.to(device)).sum()"),
    "move twice": ("a.cuda() + b.cuda()", "a.to(device) + b.to(device)"),
    "move inside a move": ("f(a.cuda()).cuda()", "f(a.to(device)).to(device)"),
    "move on several lines": ("(\n    a\n    .cuda()  # why\n)", "(\n    a\n    .to(device)  # why\n)"),
    "move after other letters": ("s = 'é日'; x.cuda()", "s = 'é日'; x.to(device)"),
    "text": ('x.to("cuda")', "x.to(device)"),
    "keyword": ("torch.zeros(3, device='cuda')", "torch.zeros(3, device=device)"),
    "autocast": ("torch.cuda.amp.autocast()", "torch.amp.autocast(device.type)"),
    "autocast with keywords": (
        "torch.cuda.amp.autocast(dtype=t)  # why",
        "torch.amp.autocast(device.type, dtype=t)  # why",
    ),
    "scaler": ("s = torch.cuda.amp.GradScaler( )", "s = torch.amp.GradScaler(device.type )"),
    "load": ("net.load_state_dict(torch.load(p))", 'net.load_state_dict(torch.load(p, map_location="cpu"))'),
    "load with a comma": (
        "self.model.load_state_dict(torch.load(\n    p,  # why\n    weights_only=True))",
        'self.model.load_state_dict(torch.load(\n    p, map_location="cpu",  # why\n    weights_only=True))',
    ),
    "operator": ("import torch_npu\ntorch.npu_x(1)", "import torch_npu\ntorch_npu.npu_x(1)"),
}
# With --unsafe-fixes only: the code may have relied on where tensors were.
UNSAFE = {
    "parameter": ("def f(x, device):\n    return x.cuda()", "def f(x, device):\n    return x.to(device)"),
    "other device": (
        "import torch\ndevice = torch.device('npu')\nx.cuda()",
        "import torch\ndevice = torch.device('npu')\nx.to(device)",
    ),
    "index": ("device = 'cuda:1'\nx.cuda()", "device = 'cuda:1'\nx.to(device)"),
    "text expected": (
        "import torch\ndevice = torch.device('cuda')\nmake(device='cuda')",
        "import torch\ndevice = torch.device('cuda')\nmake(device=device)",
    ),
    "load": ("import torch\ns = torch.load(p)", 'import torch\ns = torch.load(p, map_location="cpu")'),
    "load of something else": (
        "import torch\nschedule.load_state_dict(torch.load(p))",
        'import torch\nschedule.load_state_dict(torch.load(p, map_location="cpu"))',
    ),
    "assigning load": (
        "import torch\nmodel.load_state_dict(torch.load(p), assign=True)",
        'import torch\nmodel.load_state_dict(torch.load(p, map_location="cpu"), assign=True)',
    ),
}
LEFT = {
    "no device": "x.cuda()",
    "device comes later": "x.cuda()\ndevice = 'cuda'",
    "device is made of it": "device = f(x.cuda())",
    "device is made of it below": "device = f(\n    x.cuda(),\n)",
    "device in one branch": "if a:\n    device = 'cuda'\nx.cuda()",
    "device twice": "device = 'cuda'\nx.cuda()\ndevice = 'cpu'",
    "device of another function": "def f():\n    device = 'cuda'\ndef g():\n    x.cuda()",
    "index": "device = 'cuda'\nx.cuda(1)",
    "odd spelling": "device = 'cuda'\n(x.cuda)()\nx.cuda  \\\n()",
    "loaded in parentheses": "import torch\ntorch.load((p))",
    "loaded without a path": "import torch\ntorch.load(f=p)",
    "positional autocast": "import torch\ndevice = torch.device('cuda')\ntorch.cuda.amp.autocast(True)",
    "device is a text": "import torch\ndevice = 'cuda'\ntorch.cuda.amp.autocast()",
    "torch has another name": "import torch as t\ndevice = t.device('cuda')\nt.cuda.amp.autocast()",
    "autocast is not called": "import torch\ndevice = torch.device('cuda')\nf(torch.cuda.amp.autocast)",
    "operator without its package": "import torch\ntorch.npu_x(1)",
    "silenced": "device = 'cuda'\nx.cuda()  # portable: ignore[P01]",
}


def mended(tmp_path: Path, code: str, *, unsafe: bool = False) -> str:
    path = tmp_path / "a.py"
    path.write_text(code, newline="")
    result = mend(path, Settings(), unsafe=unsafe)
    if result is not None:
        write(result)
    assert mend(path, Settings(), unsafe=unsafe) is None, "mending again changes something"
    text = path.read_bytes().decode()
    ast.parse(text)
    return text


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", SAFE)
def test_safe_fixes(tmp_path: Path, name: str, end: str):
    before, after = ((f"import torch\n{CHOICE}" + text).replace("\n", end) for text in SAFE[name])
    assert mended(tmp_path, before) == after


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_fixes(tmp_path: Path, name: str):
    before, after = UNSAFE[name]
    assert mended(tmp_path, before) == before
    assert mended(tmp_path, before, unsafe=True) == after


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(tmp_path: Path, name: str):
    assert mended(tmp_path, LEFT[name], unsafe=True) == LEFT[name]


@pytest.mark.parametrize(
    "device",
    ["device = 'cuda'", "device = torch.device('cuda')", "device: str = 'cuda'", CHOICE.strip()],
)
def test_devices_that_are_certain(tmp_path: Path, device: str):
    code = f"import torch\n{device}\ndef f(x):\n    return x.cuda()\n"
    assert mended(tmp_path, code).endswith("return x.to(device)\n")


@pytest.mark.parametrize(
    "device",
    [
        "device = torch.device('cuda' if fast else 'cpu')",
        "device = torch.device('cuda' if torch.npu.is_available() else 'cpu')",
        "device = torch.device('cuda' if torch.cuda.is_available() else 'npu')",
        "device = given or 'cuda'",
        "device = torch.device('cuda', 1)",
        "device = choose('cuda')",
    ],
)
def test_devices_that_are_not(tmp_path: Path, device: str):
    code = f"import torch\n{device}\nx.cuda()\n"
    assert mended(tmp_path, code) == code


def test_encoding_mark_and_mode_are_kept(tmp_path: Path):
    path = tmp_path / "a.py"
    path.write_bytes("\ufeff# é\r\ndevice = 'cuda'\r\nx.cuda()".encode())
    path.chmod(0o755)
    result = mend(path, Settings())
    assert result is not None
    write(result)
    assert path.read_bytes() == "\ufeff# é\r\ndevice = 'cuda'\r\nx.to(device)".encode()
    assert path.stat().st_mode & 0o777 == 0o755
    assert [item.name for item in tmp_path.iterdir()] == ["a.py"]


def test_latin_1(tmp_path: Path):
    path = tmp_path / "a.py"
    text = "# coding: latin-1\ndevice = 'cuda'\ns = 'é'; x.cuda()\n"
    path.write_bytes(text.encode("latin-1"))
    result = mend(path, Settings())
    assert result is not None
    write(result)
    assert path.read_bytes() == text.replace("x.cuda()", "x.to(device)").encode("latin-1")


def test_diff_writes_nothing(tmp_path: Path):
    path = tmp_path / "a.py"
    path.write_text("device = 'cuda'\nx.cuda()")
    result = mend(path, Settings())
    assert result is not None
    assert result.num_fixes == 1
    wanted = """
        @@ -1,2 +1,2 @@
         device = 'cuda'
        -x.cuda()
        \\ No newline at end of file
        +x.to(device)
        \\ No newline at end of file
    """
    assert diff(result).split("\n", 2)[2] == textwrap.dedent(wanted).lstrip("\n")
    assert path.read_text().endswith("x.cuda()")


def test_only_chosen_rules_are_mended(tmp_path: Path):
    path = tmp_path / "a.py"
    path.write_text("device = 'cuda'\nx.cuda()")
    assert mend(path, Settings(ignore=("P01",))) is None


def test_a_link_stays_a_link(tmp_path: Path):
    path, link = tmp_path / "a.py", tmp_path / "b.py"
    path.write_text("device = 'cuda'\nx.cuda()")
    link.symlink_to(path)
    result = mend(link, Settings())
    assert result is not None
    write(result)
    assert link.is_symlink()
    assert path.read_text().endswith("x.to(device)")


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.py"
    path.write_text("device = 'cuda'\nx.cuda()")
    result = mend(path, Settings())
    assert result is not None

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        write(result)


def test_damaged_files_are_left_alone(tmp_path: Path):
    path = tmp_path / "a.py"
    for data in (b"x = (", b"x = '\xff'"):
        path.write_bytes(data)
        assert mend(path, Settings()) is None
