"""Every call of torch_npu in the backend fits what the wheel registers; planted wrong ones are caught."""

import inspect
import zipfile

import pytest

from ci import ascend_schemas
from ci.ascend_schemas import Use, complaint, our_files, read_wheel, shipped_lines, signature_of, uses

SHIPPED = shipped_lines()


def complaints(text, tmp_path):
    file = tmp_path / "planted.py"
    file.write_text(text)
    return [told for use in uses(file) if (told := complaint(use, SHIPPED))]


@pytest.mark.parametrize("path", our_files(), ids=lambda path: path.name)
def test_our_calls_fit(path):
    assert [told for use in uses(path) if (told := complaint(use, SHIPPED))] == []


def test_our_calls_are_seen_at_all():
    names = {use.name for path in our_files() for use in uses(path)}
    assert {"npu::npu_fusion_attention", "npu::npu_format_cast", "torch.npu.mem_get_info"} <= names
    assert "torch.npu.config.allow_internal_format" in names
    shipped = {line.split("(")[0] for line in SHIPPED}
    assert names <= shipped | {line.split(".")[0] for line in shipped}


@pytest.mark.parametrize(
    "good",
    [
        "torch_npu.npu_format_cast(x, 2)",
        "torch_npu.npu_format_cast(input=x, acl_format=2, customize_dtype=1)",
        "torch.ops.npu.get_npu_format(x)",
        "torch.npu.mem_get_info()",
        "self.module.Stream(priority=1)",
        "torch.npu_is_something_else(1)",
    ],
)
def test_calls_that_fit(good, tmp_path):
    assert complaints(good, tmp_path) == []


PLANTED = {
    # call: what is said of it
    "torch_npu.npu_format_cast(self=x, acl_format=2)": "npu::npu_format_cast",  # the documentation's name
    "torch_npu.npu_format_cast(x)": "missing a required argument",
    "torch_npu.npu_format_cast(x, 2, 1)": "too many positional arguments",  # keyword-only
    "torch_npu.npu_fusion_attention(q, k, v, 8, 'TND', pre_tokens=1)": "unexpected keyword argument 'pre_",
    "torch.ops.npu.get_npu_format()": "missing a required argument",
    "torch_npu.npu_never_heard_of(x)": "is not in the wheel's list",
    "torch.npu.set_device()": "missing a required argument",
    "self.module.mem_get_info(index=0)": "unexpected keyword argument 'index'",
    "torch_npu.npu.current_stream(0, 1)": "too many positional arguments",
    "torch.npu.config.allow_everything = True": "is not in the wheel's list",
}


@pytest.mark.parametrize("call", PLANTED)
def test_planted_wrong_call_is_caught(call, tmp_path):
    (told,) = complaints(call, tmp_path)
    assert "planted.py:1" in told
    assert PLANTED[call] in told


@pytest.mark.parametrize(
    ("text", "reason"),
    [("from torch_npu import npu_format_cast", "in full"), ("torch_npu.npu_format_cast(*args)", "stars")],
)
def test_what_would_hide_a_call_is_refused(text, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        complaints(text, tmp_path)


def make_wheel(path, schema, function):
    with zipfile.ZipFile(path, "w") as archive:
        text = (
            b"\0junk\0" + schema.encode() + b"\0npu_other(Tensor x) -> Tensor\0npu_a(Tensor x) -> (Broken\0"
        )
        archive.writestr("torch_npu/lib/libx.so", text)
        archive.writestr("torch_npu/npu/things.py", function)
    return path


SOURCE = """
def count(device: int = 0, *rest, flag, word="x", **more): ...
class Mark:
    def __new__(cls, timing=False): ...
class _npuConfig:
    def __setattr__(cls, name, value):
        if name == "allow": ...
"""


def test_a_wheel_is_read_without_being_installed(tmp_path):
    wheel = make_wheel(tmp_path / "a.whl", "npu_a.out(Tensor x, *, int y=1) -> Tensor", SOURCE)
    names = {"npu::npu_a", "torch.npu.count", "torch.npu.Mark", "torch.npu.config.allow", "torch.npu.gone"}
    assert read_wheel(wheel, names) == [
        "npu::npu_a.out(Tensor x, *, int y=1) -> Tensor",
        "torch.npu.Mark(timing=None)",
        "torch.npu.config.allow",
        "torch.npu.count(device=None, *rest, flag, word=None, **more)",
    ]


def test_any_overload_may_fit():
    lines = ["npu::f(Tensor x) -> Tensor", "npu::f.two(Tensor x, int n) -> Tensor"]
    assert complaint(Use("here", "npu::f", 2), lines) == ""
    assert "too many" in complaint(Use("here", "npu::f", 3), lines)


def test_a_schema_becomes_a_signature():
    signature = signature_of("npu::f(Tensor x, int n=3, *, Tensor? mask=None, float p) -> Tensor")
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2 + [inspect.Parameter.KEYWORD_ONLY] * 2
    required = [
        name for name, item in signature.parameters.items() if item.default is inspect.Parameter.empty
    ]
    assert required == ["x", "p"]


def test_the_script_tells_what_a_newer_wheel_changes(tmp_path, monkeypatch, capsys):
    ours = tmp_path / "ours.py"
    ours.write_text("torch_npu.npu_a(x, y=2)\n")
    monkeypatch.setattr(ascend_schemas, "our_files", lambda: [ours])
    monkeypatch.setattr(ascend_schemas, "SHIPPED", tmp_path / "schemas.txt")
    monkeypatch.setattr(ascend_schemas, "shipped_lines", lambda: shipped_lines(tmp_path / "schemas.txt"))
    old = make_wheel(tmp_path / "old.whl", "npu_a(Tensor x, *, int y=1) -> Tensor", "")
    new = make_wheel(tmp_path / "new.whl", "npu_a(Tensor x, *, int z=1) -> Tensor", "")
    assert ascend_schemas.main(["write", str(old)]) == 0
    assert ascend_schemas.main(["check"]) == 0
    assert ascend_schemas.main(["diff", str(old)]) == 0
    capsys.readouterr()
    assert ascend_schemas.main(["diff", str(new)]) == 1
    assert "+npu::npu_a(Tensor x, *, int z=1) -> Tensor" in capsys.readouterr().out
    ascend_schemas.main(["write", str(new)])
    assert ascend_schemas.main(["check"]) == 1
    assert "unexpected keyword argument 'y'" in capsys.readouterr().out
    assert ascend_schemas.main([]) == 2
