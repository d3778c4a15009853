import pytest


@pytest.fixture
def kernel(tmp_path):
    """Return a function that lays out what AMD's kernel driver shows below ``tmp_path``."""

    def lay_out(*, version=90402, name="AMD Instinct MI300X OAM", gib=192, vendor=0x1002, gpus=2):
        (tmp_path / "dev").mkdir()
        (tmp_path / "dev/kfd").touch()
        nodes = tmp_path / "sys/class/kfd/kfd/topology/nodes"
        write(nodes / "0/properties", "cpu_cores_count 64\nsimd_count 0\nvendor_id 0\n")
        for index in range(gpus):
            minor = 128 + index
            text = f"simd_count 1216\nvendor_id {vendor}\ngfx_target_version {version}\n"
            text += f"drm_render_minor {minor}\n"
            write(nodes / f"{index + 1}/properties", text)
            write(nodes / f"{index + 1}/mem_banks/0/properties", f"heap_type 1\nsize_in_bytes {gib << 30}\n")
            write(nodes / f"{index + 1}/mem_banks/1/properties", "heap_type 0\nsize_in_bytes 999\n")
            if name:
                write(tmp_path / f"sys/class/drm/renderD{minor}/device/product_name", name + "\n")
        return tmp_path

    return lay_out


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
