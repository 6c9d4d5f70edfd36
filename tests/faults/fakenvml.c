/* Stands for NVIDIA's libnvidia-ml.so.1: one GPU, which falls off at the FAKENVML_AT-th call with FAKENVML_ERROR.
 *
 * FAKENVML_AT counts the calls of the process from 1 (0 or none: never); FAKENVML_BACK is after how many calls more it
 * is there again (0 or none: never). FAKENVML_LOG gets a line for each call.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NOT_FOUND = 6, GPU_IS_LOST = 15 };
static int number(const char *name) { const char *text = getenv(name); return text ? atoi(text) : 0; }

static int ask(const char *what) {
  static int calls;
  int call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST), at = number("FAKENVML_AT"), back = number("FAKENVML_BACK");
  const char *log = getenv("FAKENVML_LOG");
  if (log) {
    int file = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (dprintf(file, "%s\n", what) < 0) abort();
    close(file);
  }
  if (!at || call < at || (back && call >= at + back)) return 0;
  int error = number("FAKENVML_ERROR");
  return error ? error : GPU_IS_LOST;
}
#define ASK int error = ask(__func__); if (error) return error

typedef void *Device;
static const char *UUID = "GPU-11111111-2222-3333-4444-555555555555";
static int text(char *target, unsigned size, const char *source) { snprintf(target, size, "%s", source); return 0; }

int nvmlInitWithFlags(unsigned flags) { ASK; return 0; }
int nvmlInit_v2(void) { ASK; return 0; }
int nvmlShutdown(void) { ASK; return 0; }
const char *nvmlErrorString(int error) { return error == GPU_IS_LOST ? "GPU is lost" : "Unknown Error"; }
int nvmlSystemGetDriverVersion(char *target, unsigned size) { ASK; return text(target, size, "580.1"); }
int nvmlSystemGetProcessName(unsigned pid, char *target, unsigned size) { ASK; return text(target, size, "python"); }
int nvmlDeviceGetCount_v2(unsigned *count) { ASK; *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device) { ASK; *device = (Device)1; return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, Device *device) { ASK; *device = (Device)1; return strcmp(uuid, UUID) ? NOT_FOUND : 0; }
int nvmlDeviceGetName(Device device, char *target, unsigned size) { ASK; return text(target, size, "NVIDIA Test GPU"); }
int nvmlDeviceGetUUID(Device device, char *target, unsigned size) { ASK; return text(target, size, UUID); }
struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(Device device, struct memory *found) { ASK; *found = (struct memory){24ull << 30, 23ull << 30, 1ull << 30}; return 0; }
int nvmlDeviceGetCudaComputeCapability(Device device, int *major, int *minor) { ASK; *major = 8; *minor = 6; return 0; }
int nvmlDeviceGetMinorNumber(Device device, unsigned *minor) { ASK; *minor = 0; return 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned *count, void *found) { ASK; *count = 0; return 0; }
int nvmlDeviceGetUtilizationRates(Device device, unsigned *rates) { ASK; rates[0] = rates[1] = 0; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(Device device, unsigned long long *millijoules) { static unsigned long long sum; ASK; *millijoules = sum += 1000; return 0; }
struct violation { unsigned long long reference, violated; };
int nvmlDeviceGetViolationStatus(Device device, int policy, struct violation *found) { ASK; *found = (struct violation){0, 0}; return 0; }
int nvmlDeviceGetClockInfo(Device device, int which, unsigned *mhz) { ASK; *mhz = 1980; return 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(Device device, unsigned long long *bits) { ASK; *bits = 0; return 0; }
int nvmlDeviceGetPowerUsage(Device device, unsigned *milliwatts) { ASK; *milliwatts = 300000; return 0; }
int nvmlDeviceGetTemperature(Device device, int sensor, unsigned *celsius) { ASK; *celsius = 60; return 0; }
