"""Measure a part of the H100 machine file on a Hopper GPU: units' throughput and load latency.

    python -m benchmarks.measure_gpu            # prints JSON: measured figures beside the file's

Needs ``nvcc`` and a GPU of compute capability 9.0; without them it says so and exits with 1.
One thread block per multiprocessor times a loop with the clock of the multiprocessor:

- ``MUFU``: exponentials per cycle, 1024 threads of independent ``ex2`` chains;
- ``ALU``: fused multiply-adds per cycle, likewise;
- ``TC``: dense 16-bit operations per cycle through warp-level ``mma`` (a lower bound of what
  warp-group instructions reach);
- ``bulk copy``: cycles from the issue of a bulk copy into shared memory to its barrier, for
  several sizes, and the slope per KiB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCE = r"""
#include <cstdint>
#include <cstdio>
#include <cuda_fp16.h>
#include <mma.h>

constexpr int kLoops = 2048;

__global__ void exponentials(float *out, long long *cycles) {
  float a = threadIdx.x * 1e-3f, b = a + 1.f, c = a + 2.f, d = a + 3.f;
  __syncthreads();
  long long begin = clock64();
  for (int i = 0; i < kLoops; ++i) {
    asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(a));
    asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(b));
    asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(c));
    asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(d));
  }
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - begin;
  out[blockIdx.x * blockDim.x + threadIdx.x] = a + b + c + d;
}

__global__ void multiply_adds(float *out, long long *cycles) {
  float a = threadIdx.x, b = a + 1.f, c = a + 2.f, d = a + 3.f, f = 0.999f;
  __syncthreads();
  long long begin = clock64();
  for (int i = 0; i < kLoops; ++i) {
    a = fmaf(a, f, 1.f);
    b = fmaf(b, f, 1.f);
    c = fmaf(c, f, 1.f);
    d = fmaf(d, f, 1.f);
  }
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - begin;
  out[blockIdx.x * blockDim.x + threadIdx.x] = a + b + c + d;
}

__global__ void matrix(float *out, long long *cycles) {
  using namespace nvcuda;
  wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> a;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> b;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> c[4];
  wmma::fill_fragment(a, __float2half(0.5f));
  wmma::fill_fragment(b, __float2half(0.5f));
  for (int k = 0; k < 4; ++k) wmma::fill_fragment(c[k], 0.f);
  __syncthreads();
  long long begin = clock64();
  for (int i = 0; i < kLoops; ++i)
    for (int k = 0; k < 4; ++k) wmma::mma_sync(c[k], a, b, c[k]);
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - begin;
  out[blockIdx.x * blockDim.x + threadIdx.x] = c[0].x[0] + c[1].x[0] + c[2].x[0] + c[3].x[0];
}

__global__ void bulk_copy(const char *in, int bytes, long long *cycles) {
  extern __shared__ __align__(128) char room[];
  __shared__ __align__(8) uint64_t barrier;
  uint32_t at = (uint32_t)__cvta_generic_to_shared(&barrier);
  uint32_t to = (uint32_t)__cvta_generic_to_shared(room);
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(at));
  asm volatile("fence.mbarrier_init.release.cluster;");
  long long best = 1LL << 40;
  for (int i = 0; i < 32; ++i) {
    long long begin = clock64();
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes));
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
        ::"r"(to), "l"(in), "r"(bytes), "r"(at) : "memory");
    uint32_t done = 0;
    while (!done)
      asm volatile(
          "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;"
          " selp.u32 %0, 1, 0, p; }"
          : "=r"(done) : "r"(at), "r"(i & 1) : "memory");
    long long took = clock64() - begin;
    if (took < best) best = took;
  }
  cycles[0] = best;
}

static long long largest(long long *cycles, int n) {
  cudaError_t error = cudaDeviceSynchronize();
  if (error != cudaSuccess) {
    fprintf(stderr, "%s\n", cudaGetErrorString(error));
    exit(1);
  }
  long long most = 0;
  for (int i = 0; i < n; ++i) most = cycles[i] > most ? cycles[i] : most;
  return most;
}

int main() {
  cudaDeviceProp p;
  cudaError_t error = cudaGetDeviceProperties(&p, 0);
  if (error != cudaSuccess) {
    fprintf(stderr, "there is no usable GPU (%s)\n", cudaGetErrorString(error));
    return 1;
  }
  if (p.major != 9) {
    fprintf(stderr, "%s has compute capability %d.%d, 9.0 is needed\n", p.name, p.major, p.minor);
    return 1;
  }
  int blocks = p.multiProcessorCount, threads = 1024;
  float *out;
  long long *cycles;
  char *in;
  cudaMalloc(&out, sizeof(float) * blocks * threads);
  cudaMallocManaged(&cycles, sizeof(long long) * blocks);
  cudaMalloc(&in, 65536);
  printf("{\"device\": \"%s\", \"capability\": \"%d.%d\"", p.name, p.major, p.minor);
  for (int warm = 0; warm < 2; ++warm) exponentials<<<blocks, threads>>>(out, cycles);
  printf(", \"MUFU\": %.2f", 4.0 * kLoops * threads / largest(cycles, blocks));
  for (int warm = 0; warm < 2; ++warm) multiply_adds<<<blocks, threads>>>(out, cycles);
  printf(", \"ALU\": %.2f", 4.0 * kLoops * threads / largest(cycles, blocks));
  for (int warm = 0; warm < 2; ++warm) matrix<<<blocks, 512>>>(out, cycles);
  double flops = 2.0 * 16 * 16 * 16 * 4 * kLoops * (512 / 32);
  printf(", \"TC\": %.1f, \"bulk_copy\": [", flops / largest(cycles, blocks));
  cudaFuncSetAttribute(bulk_copy, cudaFuncAttributeMaxDynamicSharedMemorySize, 65536);
  const char *gap = "";
  for (int bytes = 1024; bytes <= 65536; bytes *= 2, gap = ", ") {
    bulk_copy<<<1, 1, 65536>>>(in, bytes, cycles);
    printf("%s[%d, %lld]", gap, bytes, largest(cycles, 1));
  }
  printf("]}\n");
  return 0;
}
"""

#: What the machine file's arithmetic says of a multiprocessor, by the measured figure's name.
EXPECTED = {"MUFU": 16.0, "ALU": 128.0, "TC": 4096.0}


def measure() -> dict[str, Any]:
    """Compile and run the kernels.

    Raises
    ------
    RuntimeError
        Without a compiler or a suitable GPU.
    """
    compiler = shutil.which("nvcc")
    if compiler is None:
        raise RuntimeError("nvcc is not installed")
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "measure.cu", Path(folder) / "measure"
        source.write_text(SOURCE)
        build = [compiler, "-O3", "-arch=sm_90a", "-o", str(program), str(source)]
        for command in (build, [str(program)]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr.strip() or f"{command[0]} failed")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    """Print the measured figures beside the expected ones."""
    form = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=form).parse_args()
    try:
        found = measure()
    except RuntimeError as error:
        print(f"nothing was measured: {error}", file=sys.stderr)
        return 1
    sizes = found["bulk_copy"]
    (small, first), (large, last) = sizes[0], sizes[-1]
    slope = 1024 * (last - first) / (large - small)
    found["bulk_copy_cycles_per_kib"] = round(slope, 2)
    found["expected"] = EXPECTED
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
