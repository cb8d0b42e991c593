// A libcuda without a card behind it, for tests of what users are told: it answers the questions that are asked when a
// device is opened as another machine's driver would. The environment says which machine that is:
//   STAND_IN_VERSION  cuDriverGetVersion, default 13000       STAND_IN_INIT     status of cuInit, default 0
//   STAND_IN_CARDS    number of cards, default 1              STAND_IN_CONTEXT  status of making a context, default 0
//   STAND_IN_CHIP     compute capability times ten, default 90
// Compiled with -DBEFORE_TENSOR_MAPS it lacks a function, as drivers before CUDA 12 do. Nothing can be computed with it.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int number(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text == NULL ? otherwise : atoi(text);
}

int cuInit(uint32_t flags) { return number("STAND_IN_INIT", 0); }
int cuDriverGetVersion(int32_t *version) { *version = number("STAND_IN_VERSION", 13000); return 0; }
int cuDeviceGetCount(int32_t *count) { *count = number("STAND_IN_CARDS", 1); return 0; }
int cuDeviceGetName(char *name, int32_t size, int32_t index) { snprintf(name, size, "Stand-in %d", index); return 0; }
int cuDeviceTotalMem_v2(int64_t *bytes, int32_t index) { *bytes = (int64_t)80 << 30; return 0; }
int cuDevicePrimaryCtxRetain(int64_t *context, int32_t index) { *context = 1; return number("STAND_IN_CONTEXT", 0); }
int cuDevicePrimaryCtxRelease_v2(int32_t index) { return 0; }
int cuCtxSetCurrent(int64_t context) { return 0; }

int cuDeviceGetAttribute(int32_t *value, int32_t attribute, int32_t index) {
  int chip = number("STAND_IN_CHIP", 90);
  *value = attribute == 75 ? chip / 10 : attribute == 76 ? chip % 10 : 100;
  return 0;
}

int cuGetErrorString(int status, const char **text) {
  *text = status == 2 ? "out of memory" : status == 100 ? "no CUDA-capable device is detected" : "some error";
  return 0;
}

// What a computation would need: there to be found, and refused.
#define REFUSED(name) int name(void) { return 801; }
REFUSED(cuMemGetInfo_v2)
REFUSED(cuMemAlloc_v2)
REFUSED(cuMemFree_v2)
REFUSED(cuMemAllocHost_v2)
REFUSED(cuMemFreeHost)
REFUSED(cuMemcpyHtoDAsync_v2)
REFUSED(cuMemcpyDtoHAsync_v2)
REFUSED(cuMemcpyDtoDAsync_v2)
REFUSED(cuMemsetD8Async)
REFUSED(cuStreamCreate)
REFUSED(cuStreamDestroy_v2)
REFUSED(cuStreamSynchronize)
REFUSED(cuEventCreate)
REFUSED(cuEventRecord)
REFUSED(cuEventQuery)
REFUSED(cuEventSynchronize)
REFUSED(cuEventElapsedTime)
REFUSED(cuEventDestroy_v2)
REFUSED(cuModuleLoadData)
REFUSED(cuModuleUnload)
REFUSED(cuModuleGetFunction)
REFUSED(cuFuncSetAttribute)
REFUSED(cuLaunchKernel)
REFUSED(cuStreamBeginCapture_v2)
REFUSED(cuStreamEndCapture)
REFUSED(cuGraphInstantiateWithFlags)
REFUSED(cuGraphLaunch)
REFUSED(cuGraphDestroy)
REFUSED(cuGraphExecDestroy)
#ifndef BEFORE_TENSOR_MAPS
REFUSED(cuTensorMapEncodeTiled)
#endif
