/* A stand-in for CANN's runtime; FAKE_* variables say what it answers. */
#include <stdlib.h>

static int started = 0;

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

int aclInit(const char *settings) { started = settings == 0; return 0; }
int aclrtGetDeviceCount(unsigned *count) {
    if (number("FAKE_NEEDS_INIT", 0) && !started) return 100001;
    *count = number("FAKE_COUNT", 8);
    return number("FAKE_ERROR", 0);
}
const char *aclrtGetSocName(void) { const char *text = getenv("FAKE_SOC"); return text ? text : "Ascend910B2"; }
int times_started(void) { return started; }
