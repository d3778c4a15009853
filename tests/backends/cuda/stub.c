/* A stand-in for NVIDIA's driver; FAKE_* variables say what it answers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

int cuDriverGetVersion(int *version) { *version = number("FAKE_DRIVER", 13000); return 0; }
int cuInit(unsigned flags) { return flags ? 1 : number("FAKE_INIT", 0); }
int cuDeviceGetCount(int *count) { *count = number("FAKE_COUNT", 2); return number("FAKE_COUNT_ERROR", 0); }
int cuDeviceGet(int *device, int index) { *device = 40 + index; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    const char *text = getenv("FAKE_NAME");
    snprintf(name, length, "%s", text ? text : "NVIDIA H100 80GB HBM3");
    return device < 40;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? number("FAKE_MAJOR", 9) : attribute == 76 ? number("FAKE_MINOR", 0) : -1;
    return device < 40;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 79ULL << 30; return device < 40; }
int cuGetErrorName(int code, const char **name) {
    *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : NULL;
    return 0;
}
