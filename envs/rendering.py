"""Checks that MuJoCo can render."""

import ctypes
import os


def check_rendering() -> None:
    """Render one tiny frame; raise RuntimeError that names the missing library.

    MuJoCo's own errors do not name it. MuJoCo is first imported here.
    """
    try:
        import mujoco

        model = mujoco.MjModel.from_xml_string("<mujoco/>")
        with mujoco.Renderer(model, 16, 16) as renderer:
            renderer.update_scene(mujoco.MjData(model))
            renderer.render()
    except Exception as error:
        gl = os.environ["MUJOCO_GL"]
        raise RuntimeError(
            f"MUJOCO_GL={gl} does not render here ({_advice(gl)})"
        ) from error


def _advice(gl: str) -> str:
    if gl == "egl" and not _library_loads("libEGL.so.1"):
        return "libEGL is missing: apt-get install libegl1 libgl1"
    if gl == "egl":
        return "libEGL finds no driver: apt-get install libegl-mesa0 libgl1-mesa-dri"
    if gl == "osmesa" and not _library_loads("libOSMesa.so.8"):
        return "libOSMesa is missing: apt-get install libosmesa6"
    return "unset MUJOCO_GL to use egl"


def _library_loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
