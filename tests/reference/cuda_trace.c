/* Writes when each kernel and copy of a CUDA program began and how long it took, by the driver's own record (CUPTI): the
 * program goes on as it would without.
 *
 *     gcc -O2 -shared -fPIC -I$CUDA/include -o cuda_trace.so tests/reference/cuda_trace.c -L$CUDA/lib64 -lcupti
 *     CUDA_INJECTION64_PATH=$PWD/cuda_trace.so CUDA_TRACE=trace.txt clip bench train-b-32 --rounds 1 --device cuda ...
 *     python tests/reference/cuda_trace.py trace.txt
 *
 * A line each, times in nanoseconds:
 *     kernel BEGIN TIME STREAM GRID THREADS REGISTERS SHARED-BYTES NAME
 *     copy BEGIN TIME STREAM KIND BYTES
 *     call BEGIN TIME THREAD NUMBER     with CUDA_TRACE_CALLS: what the program asked of the driver, by CUPTI's numbers
 */
#include <cupti.h>
#include <stdio.h>
#include <stdlib.h>

typedef unsigned long long Nanoseconds;

static FILE *out;

static void CUPTIAPI give(uint8_t **buffer, size_t *size, size_t *records) {
    *size = 8 << 20;
    *buffer = aligned_alloc(8, *size);
    *records = 0;
}

static void CUPTIAPI take(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    CUpti_Activity *record = NULL;
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
            CUpti_ActivityKernel10 *k = (void *)record;
            fprintf(out, "kernel %llu %llu %u %d,%d,%d %d %d %d %s\n", (Nanoseconds)k->start,
                    (Nanoseconds)(k->end - k->start), k->streamId, k->gridX, k->gridY, k->gridZ,
                    k->blockX * k->blockY * k->blockZ, k->registersPerThread,
                    k->dynamicSharedMemory + k->staticSharedMemory, k->name);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
            CUpti_ActivityMemcpy6 *c = (void *)record;
            fprintf(out, "copy %llu %llu %u %d %llu\n", (Nanoseconds)c->start, (Nanoseconds)(c->end - c->start),
                    c->streamId, c->copyKind, (unsigned long long)c->bytes);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_DRIVER) {
            CUpti_ActivityAPI *a = (void *)record;
            fprintf(out, "call %llu %llu %u %u\n", (Nanoseconds)a->start, (Nanoseconds)(a->end - a->start), a->threadId,
                    a->cbid);
        }
    }
    free(buffer);
}

static void end(void) {
    cuptiActivityFlushAll(1);
    fclose(out);
}

/* The driver calls it when the program starts it. */
int InitializeInjection(void) {
    const char *path = getenv("CUDA_TRACE");
    out = fopen(path ? path : "cuda_trace.txt", "w");
    if (!out) return 0;
    int failed = cuptiActivityRegisterCallbacks(give, take) || cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL)
        || cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
    if (getenv("CUDA_TRACE_CALLS")) failed = failed || cuptiActivityEnable(CUPTI_ACTIVITY_KIND_DRIVER);
    cuptiActivityFlushPeriod(500);
    atexit(end);
    return !failed;
}
