// What cuDNN wants of a driver before it makes plans for a card that is not there: its functions, and that
// compiled kernels can be loaded. Nothing is started.
#include <stdlib.h>

enum { OK, NO_DEVICE = 100 };

int cuDriverGetVersion(int *version) { return *version = 12090, OK; }
int cuDeviceGetCount(int *count) { return *count = 1, OK; }
int cuDeviceGet(int *device, int ordinal) { return *device = 0, ordinal ? 101 : OK; }
int cuLibraryLoadData(void **library, const char *code, void *options, void *values, unsigned count,
                      void *more, void *more_values, unsigned more_count) {
    // Machine code, and nothing but that.
    if (code[0] != 0x7f || code[1] != 'E' || code[2] != 'L' || code[3] != 'F') return 200;
    return *library = malloc(1), OK;
}
int cuLibraryGetKernel(void **kernel, void *library, const char *name) {
    return *kernel = library, name[0] ? OK : 500;
}
int cuKernelGetFunction(void **function, void *kernel) { return *function = kernel, OK; }
int cuLibraryUnload(void *library) { return free(library), OK; }
int cuKernelSetAttribute(int which, int value, void *kernel, int device) { return OK; }

#define NONE(name) \
    int name(void) { return NO_DEVICE; }
NONE(cuCtxGetCurrent)
NONE(cuCtxGetLimit)
NONE(cuCtxPopCurrent)
NONE(cuCtxPushCurrent)
NONE(cuGetErrorName)
NONE(cuGetErrorString)
NONE(cuKernelGetAttribute)
NONE(cuLaunchCooperativeKernel)
NONE(cuLaunchKernel)
NONE(cuLaunchKernelEx)
NONE(cuLibraryLoadFromFile)
NONE(cuLinkAddData)
NONE(cuLinkComplete)
NONE(cuLinkCreate)
NONE(cuLinkDestroy)
NONE(cuModuleGetFunction)
NONE(cuModuleLoadData)
NONE(cuModuleUnload)
NONE(cuOccupancyMaxPotentialClusterSize)
NONE(cuStreamGetCtx)
NONE(cuTensorMapEncodeIm2col)
NONE(cuTensorMapEncodeTiled)
