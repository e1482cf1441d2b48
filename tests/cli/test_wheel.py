"""The wheel: what it contains, and that it works in an environment of its own, outside the checkout."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

SESSION = """
from pathlib import Path
from PIL import Image
import crackcam
from crackcam.data.synthetic import write_sample

assert "checkout" not in crackcam.__file__ and Path(crackcam.__file__).is_relative_to(Path(HOME)), crackcam.__file__
write_sample(Path("data"), counts={"train": 6, "test": 2})
model = crackcam.load()
predictions = list(model.predict("data/test/Positive"))
assert [p.label for p in predictions] == ["Positive"] * 2
explanation = model.explain(predictions[0].path)
overlay = explanation.overlay()
assert overlay.size == Image.open(predictions[0].path).size == (227, 227)
overlay.save("overlay.png")
assert explanation.regions()[0].length > 20
config = crackcam.TrainConfig(
    data="data", arch="timm/test_resnet", pretrained="none", image_size=64, epochs=1, batch_size=8, workers=0,
    output="own.safetensors",
)
result = crackcam.train(config)
assert len(result.history) == 1 and result.checkpoint == Path("own.safetensors")
assert result.classifier.predict("data/test/Negative/" + sorted(p.name for p in Path("data/test/Negative").iterdir())[0])
assert crackcam.load("own.safetensors").classes == ["Negative", "Positive"]
"""


def run(command, folder, **options):
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The python of a new environment with the wheel in it; its dependencies are those of this environment."""
    home = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", home], home)  # a pip of its own takes seven seconds
    python = home / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel], home)
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], home).stdout.strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python, site


def test_it_carries_both_packages_the_templates_and_the_bundled_network(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in (
        "crackcam/__init__.py",
        "crackcam/cli/commands.py",
        "crackcam/render/templates/report.html",
        "crackcam/weights/crack_efficientnet_lite2.safetensors",
        "pytorch_grad_cam/base_cam.py",
    ):
        assert wanted in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"crackcam", "pytorch_grad_cam"}
    (metadata,) = (name for name in names if name.endswith("/METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    required = [line for line in text.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert required
    assert not any("grad-cam" in line for line in required)
    assert sum("opencv" in line for line in required) == 1


def test_the_requirements_name_the_same_packages_as_the_wheel():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    listed = [line for line in lines if line and not line.startswith("grad-cam")]
    assert listed == project["dependencies"]
    development = (ROOT / "requirements-dev.txt").read_text()
    for extra in ("onnx", "openvino", "docs"):
        for requirement in project["optional-dependencies"][extra]:
            assert requirement in development


def test_a_notebook_session_outside_the_checkout(environment, tmp_path):
    python, site = environment
    run([python, "-c", f"HOME = {str(site)!r}\n{SESSION}"], tmp_path)
    assert (tmp_path / "overlay.png").stat().st_size > 1000


def test_the_console_script_has_the_flags_of_the_root_scripts(environment, tmp_path):
    python, _ = environment
    for name, script in {"train": "train.py", "predict": "inference.py", "explain": "xai.py"}.items():
        installed = run([python.with_name("crackcam"), name, "--help"], tmp_path).stdout
        ours = run([sys.executable, ROOT / script, "--help"], ROOT).stdout
        assert installed[installed.index("options:") :] == ours[ours.index("options:") :]
        for flag in ("--json", "--device", "--output"):
            assert flag in installed
    done = subprocess.run([python.with_name("crackcam"), "predict", "--num", "x"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: argument --num: 'x' is not a whole number above 0")


def test_beside_the_package_grad_cam_the_import_says_so(environment, tmp_path):
    python, site = environment
    info = site / "grad_cam-1.5.7.dist-info"
    info.mkdir()
    try:
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: grad-cam\nVersion: 1.5.7\n")
        done = subprocess.run([python, "-c", "import crackcam"], cwd=tmp_path, capture_output=True, text=True)
    finally:
        (info / "METADATA").unlink()
        info.rmdir()
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: the packages crackcam and grad-cam both install pytorch_grad_cam")
    assert "pip uninstall grad-cam" in last


def test_another_engine_of_the_same_name_is_refused(environment, tmp_path):
    python, _ = environment
    other = tmp_path / "pytorch_grad_cam"
    other.mkdir()
    (other / "__init__.py").write_text("")
    done = subprocess.run([python, "-c", "import crackcam"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert str(other) in done.stderr.strip().splitlines()[-1]


@pytest.mark.torture
@pytest.mark.parametrize("how", [["."], ["-e", "."]], ids=" ".join)
def test_pip_installs_it_with_its_dependencies(how, tmp_path):
    """Some gigabytes."""
    run([sys.executable, "-m", "venv", tmp_path / "env"], tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", *how], ROOT)
    run([python, "-c", "import crackcam; assert crackcam.load().classes == ['Negative', 'Positive']"], tmp_path)
