from backends.torch_device.version_findings import version_findings
from portable.device.backend import Level

TABLE = """
- subject: plug-in
  rows:
    - needs: {plugin: "==2.*", torch: ">=2", runtime: ">=9"}
      assumed: [runtime]
      source: a guess
"""


def test_good_unknown_and_clashing_versions(tmp_path):
    file = tmp_path / "versions.yaml"
    file.write_text(TABLE)
    (good,) = version_findings(file, {"plugin": "2.1", "torch": "2.2", "runtime": "9.0"})
    assert good.level is Level.good
    assert good.text == "plugin 2.1, torch 2.2, runtime 9.0"
    (partly,) = version_findings(file, {"plugin": "2.1", "torch": "2.2"})
    assert partly.level is Level.note
    assert partly.text.endswith("not found: runtime")
    bad, assumed = version_findings(file, {"plugin": "2.1", "torch": "1.0", "runtime": "8.0"})
    assert (bad.level, assumed.level) == (Level.bad, Level.note)
    assert bad.text == "plugin 2.1 goes with torch >=2; found 1.0"
    assert bad.remedy == "install torch >=2"
    assert "assumed: a guess" in assumed.text
