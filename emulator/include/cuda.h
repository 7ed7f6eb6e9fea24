// The driver API's handles, for code that names them. Its functions are in libcuda.so.1.
#pragma once
typedef struct CUstream_st* CUstream;
typedef struct CUevent_st* CUevent;
typedef struct CUctx_st* CUcontext;
typedef unsigned long long CUdeviceptr;
typedef int CUdevice;
