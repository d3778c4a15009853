from backends.rocm.driver import AMD, KernelAnswer, ask_kernel
from backends.torch_device.hardware_file import Chip


def test_gpus_are_the_nodes_with_simds(kernel):
    chip = Chip("gfx942", "AMD Instinct MI300X OAM", 192 << 30)
    assert ask_kernel(kernel()) == KernelAnswer(True, True, (chip, chip), AMD)


def test_nodes_are_counted_as_numbers(kernel):
    root = kernel(gpus=11, name="")
    file = root / "sys/class/kfd/kfd/topology/nodes/10/properties"
    file.write_text(file.read_text().replace("90402", "90500"))
    assert [chip.arch for chip in ask_kernel(root).chips].index("gfx950") == 9


def test_hidden_nodes_and_names_are_left_out(kernel, monkeypatch):
    root = kernel(name="", gpus=1)
    assert ask_kernel(root).chips[0].name == ""
    (root / "sys/class/kfd/kfd/topology/nodes/1/properties").unlink()
    (root / "sys/class/kfd/kfd/topology/nodes/1/properties").mkdir()  # cannot be read as a file
    assert ask_kernel(root).chips == ()


def test_without_the_driver_there_is_nothing(tmp_path):
    assert ask_kernel(tmp_path) == KernelAnswer()
