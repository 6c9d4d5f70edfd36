/* Stands for libnvidia-ml.so.1: two GPUs, and what goes wrong is named by FAKENVML. */
#include <stdlib.h>
#include <string.h>

enum { NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_LOADED = 9, LOST = 15, MISMATCH = 18, UNKNOWN = 999 };

static int is(const char *name)
{
    const char *fault = getenv("FAKENVML");
    return fault && !strcmp(fault, name);
}

static int is_gpu(const void *handle, size_t number) { return (size_t)handle == number + 1; }

int nvmlInitWithFlags(unsigned flags)
{
    return is("mismatch") ? MISMATCH : is("notloaded") ? NOT_LOADED : is("nopermission") ? NO_PERMISSION : 0;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return is("shutdown") ? UNKNOWN : 0; }
const char *nvmlErrorString(int result) { return is("badtext") ? "\xff\xfe" : result == LOST ? "GPU is lost" : "Unknown Error"; }

int nvmlSystemGetDriverVersion(char *text, unsigned length)
{
    if (is("driver") || is("badtext")) return is("driver") ? UNKNOWN : 77;
    strncpy(text, is("escape") ? "555\x1b[2J" : "555.85", length);
    return 0;
}
int nvmlDeviceGetCount_v2(unsigned *count)
{
    if (is("count")) return UNKNOWN;
    *count = is("none") ? 0 : 2;
    return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle)
{
    if (is("lost") || (is("lostfirst") && index == 0)) return LOST;
    *handle = (void *)(size_t)(index + 1);
    return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle)
{
    *handle = (void *)(size_t)(strstr(uuid, "-bbbb") ? 2 : 1);
    return is("lost") ? LOST : 0;
}
int nvmlDeviceGetName(void *handle, char *text, unsigned length)
{
    if (is("noname")) return UNKNOWN;
    strncpy(text, is("bytes") ? "\xf8\x95\xb0\x31" : is("escape") ? "RTX\x1b]0;x\x07 3090" : "RTX 3090", length);
    return 0;
}
int nvmlDeviceGetUUID(void *handle, char *text, unsigned length)
{
    if (is("nouuid") && is_gpu(handle, 0)) return UNKNOWN;
    strncpy(text, is_gpu(handle, 0) ? "GPU-11111111-aaaa" : "GPU-11111111-bbbb", length);
    return 0;
}
struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(void *handle, struct memory *memory)
{
    if (is("supports nothing")) return NOT_SUPPORTED;
    memory->total = is("huge") ? ~0ull : 24ull << 30;
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor)
{
    *major = 8, *minor = 6;
    return is("supports nothing") ? NOT_SUPPORTED : 0;
}
int nvmlDeviceGetMinorNumber(void *handle, unsigned *minor)
{
    *minor = (unsigned)(size_t)handle - 1;
    return is("supports nothing") ? NOT_SUPPORTED : 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, void *processes)
{
    *count = 0;
    return is("supports nothing") ? NOT_SUPPORTED : 0;
}
int nvmlDeviceGetUtilizationRates(void *handle, unsigned *rates)
{
    rates[0] = rates[1] = 0;
    return is("supports nothing") ? NOT_SUPPORTED : 0;
}
