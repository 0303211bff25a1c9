"""A BLAS library's sgemm, called through its C interface: MKL from the PyPI package `mkl`, OpenBLAS from the
system or from inside NumPy's wheel."""

import ctypes
import ctypes.util
import glob
import importlib.metadata
import importlib.util
import os

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112


def mkl():
    for file in importlib.metadata.files("mkl") or []:
        if "libmkl_rt.so" in file.name:
            return ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL), "cblas_sgemm", ctypes.c_int, "MKL " + importlib.metadata.version("mkl")
    raise ImportError("the package mkl has no libmkl_rt.so")


def openblas():
    system = ctypes.util.find_library("openblas")
    if system:
        return ctypes.CDLL(system), "cblas_sgemm", ctypes.c_int, f"OpenBLAS ({system})"
    numpy = importlib.util.find_spec("numpy")
    if numpy:
        inside = glob.glob(os.path.join(os.path.dirname(os.path.dirname(numpy.origin)), "numpy.libs", "libscipy_openblas64_*"))
        if inside:
            return ctypes.CDLL(inside[0]), "scipy_cblas_sgemm64_", ctypes.c_int64, f"OpenBLAS of NumPy {importlib.metadata.version('numpy')}"
    raise ImportError("neither libopenblas nor NumPy's own is here")


class Library:
    def __init__(self, find):
        self.library, name, self.integer, self.name = find()
        self.sgemm = getattr(self.library, name)
        self.sgemm.restype = None

    def version(self):
        return self.name

    def threads(self, count):
        """By the environment, before it was loaded."""

    def make(self, case, compiled):
        if case.operation != "gemm":
            raise NotImplementedError("a BLAS has products only")
        case.only("nn", "nt", "tn", "tt")
        m, n, k = (case.size[x] for x in "mnk")
        ta, tb = case.flags[0]
        a, b, c = filled(m * k), filled(k * n), filled(m * n)
        integer, real = self.integer, ctypes.c_float
        arguments = (
            ctypes.c_int(ROW_MAJOR),
            ctypes.c_int(TRANSPOSED if ta == "t" else PLAIN),
            ctypes.c_int(TRANSPOSED if tb == "t" else PLAIN),
            *(integer(x) for x in (m, n, k)),
            real(1), a, integer(m if ta == "t" else k),
            b, integer(k if tb == "t" else n),
            real(0), c, integer(n),
        )
        return lambda: self.sgemm(*arguments)


def filled(count):
    room = (ctypes.c_float * count)()
    for i in range(min(count, 4096)):
        room[i] = (i * 7919 % 1021) / 1021 - 0.5
    at = min(count, 4096)
    while at < count:  # doubling: no NumPy is needed
        part = min(at, count - at)
        ctypes.memmove(ctypes.addressof(room) + 4 * at, room, 4 * part)
        at += part
    return room
