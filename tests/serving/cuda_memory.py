"""GPU memory that a client shares with the server, or takes from it, through CUDA's driver alone: no
package needed."""

import base64
import contextlib
import ctypes
import itertools

import numpy as np

_names = itertools.count()


def _load():
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return None
    return driver if count.value > 0 else None


DRIVER = _load()


def _call(name, *arguments):
    result = getattr(DRIVER, name)(*arguments)
    assert result == 0, f"{name}: CUDA error {result}"


def enter_device():
    """Makes the first GPU the calling thread's."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _call("cuDeviceGet", ctypes.byref(device), 0)
    _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    _call("cuCtxSetCurrent", context)


def _free_and_total():
    enter_device()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def used_bytes():
    """Memory in use on the first GPU, by everybody."""
    free, total = _free_and_total()
    return total - free


@contextlib.contextmanager
def only_free(size):
    """Takes memory of the first GPU until only `size` bytes of it, and a little, are free."""
    granule = 2 << 20  # what memory is handed out in
    block = 1 << 30
    taken = []
    try:
        while block >= granule:
            address = ctypes.c_uint64()
            room = _free_and_total()[0] >= size + block
            if room and DRIVER.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(block)) == 0:
                taken.append(address)
            else:
                block //= 2
        yield
    finally:
        for address in taken:
            _call("cuMemFree_v2", address)


class Region:
    """Memory on the first GPU."""

    def __init__(self, size):
        enter_device()
        self.size = size
        self.name = f"region_{next(_names)}"
        self._address = ctypes.c_uint64()
        _call("cuMemAlloc_v2", ctypes.byref(self._address), ctypes.c_size_t(size))
        handle = (ctypes.c_char * 64)()
        get = DRIVER.cuIpcGetMemHandle
        assert get(ctypes.byref(handle), self._address) == 0, "this GPU's memory cannot be shared"
        self.handle = base64.b64encode(bytes(handle))

    def write(self, data, offset=0):
        address = ctypes.c_uint64(self._address.value + offset)
        _call("cuMemcpyHtoD_v2", address, ctypes.c_char_p(data), ctypes.c_size_t(len(data)))

    def read(self, size, offset=0):
        data = ctypes.create_string_buffer(size)
        address = ctypes.c_uint64(self._address.value + offset)
        _call("cuMemcpyDtoH_v2", data, address, ctypes.c_size_t(size))
        return data.raw

    def array(self, dtype, shape, offset=0):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(self.read(size, offset), dtype).reshape(shape)

    def free(self):
        _call("cuMemFree_v2", self._address)


@contextlib.contextmanager
def shared(client, size):
    """A region that the server knows by its name."""
    region = Region(size)
    client.register_cuda_shared_memory(region.name, region.handle, 0, size)
    try:
        yield region
    finally:
        client.unregister_cuda_shared_memory(region.name)
        region.free()
