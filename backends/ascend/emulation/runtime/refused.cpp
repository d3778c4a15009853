// Functions that torch_npu is linked against, so that they must exist, and that mean nothing here: each refuses by
// its name. A function that torch_npu only looks up at run time and that this folder lacks is absent altogether;
// torch_npu then names it in an error of its own. The ACL headers stay out: arguments are not looked at.
#define REFUSE(function) \
  int function() { return emulated_cann_refuse(#function); }

extern "C" {

int emulated_cann_refuse(const char* function);

// Descriptions of operators that are executed elsewhere.
REFUSE(aclGetTensorDescDimV2)
REFUSE(aclGetTensorDescFormat)
REFUSE(aclGetTensorDescNumDims)
REFUSE(aclGetTensorDescType)

// Dumps of operator inputs and outputs.
REFUSE(aclmdlFinalizeDump)
REFUSE(aclmdlInitDump)
REFUSE(aclmdlSetDump)

// Kernels in the chip's machine code.
REFUSE(aclrtBinaryGetFunction)
REFUSE(aclrtBinaryLoadFromData)
REFUSE(aclrtGetFunctionAddr)
REFUSE(rtDevBinaryRegister)
REFUSE(rtFunctionRegister)
REFUSE(rtGetC2cCtrlAddr)
REFUSE(rtKernelLaunch)

// Device memory shared between processes.
REFUSE(aclrtMemExportToShareableHandle)
REFUSE(aclrtMemImportFromShareableHandle)
REFUSE(aclrtMemSetPidToShareableHandle)

}  // extern "C"
