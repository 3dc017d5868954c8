// Stands for a busy device: returns its operand after some seconds, in which the cores of the host are free.
#include <chrono>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

static ffi::Error Wait(float seconds, ffi::Buffer<ffi::F32> in, ffi::ResultBuffer<ffi::F32> out) {
  std::this_thread::sleep_for(std::chrono::duration<float>(seconds));
  *out->typed_data() = *in.typed_data();
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(nl_jax_wait, Wait,
                              ffi::Ffi::Bind()
                                  .Attr<float>("seconds")
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
