/* A CUDA driver that computes nothing, to see on any machine what a program asks of a GPU and how long it takes to ask.
 * Or, with IDLE_CUDA_COMPUTES, one that interprets every kernel (ptx.c): the same results as a GPU's, slowly.
 *
 *     gcc -O2 -shared -fPIC -o idle/libcuda.so.1 tests/reference/idle_cuda.c -lm -lpthread
 *     ln -s libcuda.so.1 idle/libcuda.so
 *     LD_LIBRARY_PATH=idle IDLE_CUDA_LOG=asked.txt clip bench train-b-32 --device cuda --precision bf16 ...
 *     export LD_LIBRARY_PATH=idle IDLE_CUDA_COMPUTES=1 IDLE_CUDA_PTX=ptx
 *     cargo test --release -p clip-cube --features gpu,burn/cuda
 *
 * It plays an H200. Memory is the host's, kernels leave it as it is and take IDLE_CUDA_US microseconds (20) of a clock
 * that others wait for; those that measure how fast a GPU is take long enough to be believed. Four bytes that are read
 * are the number 8, which is what `clip` asks a device for before it trusts it. So no result means anything: losses,
 * features and which kernel autotune finds fastest least of all. A driver that computes does none of that. The log has a
 * line for each copy, kernel and module. IDLE_CUDA_PTX names a folder that each module is written to, for `ptxas -v` to
 * say what its kernels take.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define HEADER 4096
#define NOT_READY 600
#define OUT_OF_MEMORY 2

typedef int Result;
typedef uint64_t Address;
typedef struct { char name[256]; void *program; } Kernel;
typedef struct { double at; } Event;
/* As cuda.h lays it out. */
typedef struct {
    size_t source_x, source_y; int source_type; const void *source_host; Address source; void *source_array;
    size_t source_pitch, target_x, target_y; int target_type; void *target_host; Address target; void *target_array;
    size_t target_pitch, width, height;
} Copy2D;

#include "ptx.c"

static int computes;
static FILE *asked;
static double begun, busy_until, seconds_a_kernel = 20e-6;
static long kernels, modules, to_device, to_host;
static const char *modules_folder;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void wait_until(double at) {
    double left = at - now();
    if (left > 0) {
        struct timespec t = {(time_t)left, (long)((left - (time_t)left) * 1e9)};
        nanosleep(&t, NULL);
    }
}

#define LOG(...) do { if (asked) { fprintf(asked, "%.6f ", now() - begun); fprintf(asked, __VA_ARGS__); } } while (0)

__attribute__((constructor)) static void begin(void) {
    begun = now();
    const char *path = getenv("IDLE_CUDA_LOG"), *us = getenv("IDLE_CUDA_US");
    computes = getenv("IDLE_CUDA_COMPUTES") != NULL;
    modules_folder = getenv("IDLE_CUDA_PTX");
    if (us) seconds_a_kernel = atof(us) * 1e-6;
    if (path && (asked = fopen(path, "w"))) setvbuf(asked, NULL, _IOFBF, 1 << 20);
}

__attribute__((destructor)) static void end(void) {
    if (asked) fclose(asked);
    fprintf(stderr, "idle CUDA: %ld kernels, %ld modules, %ld bytes to the device, %ld back\n", kernels, modules,
            to_device, to_host);
}

/* The device. */
static int context;
Result cuInit(unsigned flags) { return 0; }
Result cuDriverGetVersion(int *version) { *version = 13000; return 0; }
Result cuDeviceGetCount(int *count) { *count = 1; return 0; }
Result cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
Result cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "NVIDIA H200"); return 0; }
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 150ull << 30; return 0; }
Result cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, 7, 16); return 0; }
Result cuDeviceGetPCIBusId(char *id, int length, int device) { snprintf(id, length, "0000:04:00.0"); return 0; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break; /* threads of a block, and along x and y */
    case 4: *value = 64; break;                   /* along z */
    case 5: *value = 2147483647; break;           /* blocks along x */
    case 6: case 7: *value = 65535; break;        /* along y and z */
    case 8: *value = 49152; break;                /* shared memory */
    case 10: *value = 32; break;                  /* threads of a warp */
    case 12: *value = 65536; break;               /* registers */
    case 16: *value = 132; break;                 /* multiprocessors */
    case 38: *value = 62914560; break;            /* L2 */
    case 75: *value = 9; break;                   /* compute capability */
    case 76: *value = 0; break;
    case 97: *value = 232448; break;              /* shared memory, if asked for */
    default: *value = 1;
    }
    return 0;
}
Result cuDevicePrimaryCtxRetain(void **found, int device) { *found = &context; return 0; }
Result cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
Result cuCtxSetCurrent(void *ctx) { return 0; }
Result cuCtxGetCurrent(void **found) { *found = &context; return 0; }
Result cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
Result cuGetErrorName(Result error, const char **name) { *name = "idle"; return 0; }
Result cuGetErrorString(Result error, const char **words) { *words = "idle"; return 0; }

/* Streams and events, on one clock. */
Result cuCtxSynchronize(void) { wait_until(busy_until); return 0; }
Result cuStreamCreate(void **stream, unsigned flags) { *stream = malloc(8); return 0; }
Result cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) { return cuStreamCreate(stream, flags); }
Result cuStreamDestroy_v2(void *stream) { return 0; }
Result cuStreamSynchronize(void *stream) { wait_until(busy_until); return 0; }
Result cuStreamQuery(void *stream) { return busy_until > now() ? NOT_READY : 0; }
Result cuStreamWaitEvent(void *stream, Event *event, unsigned flags) { return 0; }
Result cuEventCreate(Event **event, unsigned flags) { *event = calloc(1, sizeof **event); return 0; }
Result cuEventDestroy_v2(Event *event) { free(event); return 0; }
Result cuEventRecord(Event *event, void *stream) {
    double time = now();
    event->at = busy_until > time ? busy_until : time;
    return 0;
}
Result cuEventSynchronize(Event *event) { wait_until(event->at); return 0; }
Result cuEventQuery(Event *event) { return event->at > now() ? NOT_READY : 0; }
Result cuEventElapsedTime_v2(float *ms, Event *from, Event *to) { *ms = (to->at - from->at) * 1e3; return 0; }
Result cuEventElapsedTime(float *ms, Event *from, Event *to) { return cuEventElapsedTime_v2(ms, from, to); }

/* Memory, with its size before it. */
Result cuMemAlloc_v2(Address *found, size_t bytes) {
    void *memory = mmap(NULL, bytes + HEADER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return OUT_OF_MEMORY;
    *(size_t *)memory = bytes + HEADER;
    *found = (Address)memory + HEADER;
    LOG("alloc %zu\n", bytes);
    return 0;
}
Result cuMemFree_v2(Address address) {
    void *memory = (void *)(address - HEADER);
    munmap(memory, *(size_t *)memory);
    return 0;
}
Result cuMemAllocAsync(Address *found, size_t bytes, void *stream) { return cuMemAlloc_v2(found, bytes); }
Result cuMemFreeAsync(Address address, void *stream) { return cuMemFree_v2(address); }
Result cuMemAllocHost_v2(void **found, size_t bytes) { return cuMemAlloc_v2((Address *)found, bytes); }
Result cuMemFreeHost(void *memory) { return cuMemFree_v2((Address)memory); }
Result cuMemGetInfo_v2(size_t *unused, size_t *all) { *unused = 149ull << 30; *all = 150ull << 30; return 0; }
Result cuMemsetD8Async(Address target, unsigned char value, size_t bytes, void *stream) {
    memset((void *)target, value, bytes);
    return 0;
}

/* Copies. */
Result cuMemcpyHtoDAsync_v2(Address target, const void *source, size_t bytes, void *stream) {
    to_device += bytes;
    LOG("h2d %zu\n", bytes);
    memcpy((void *)target, source, bytes);
    return 0;
}
Result cuMemcpyDtoHAsync_v2(void *target, Address source, size_t bytes, void *stream) {
    to_host += bytes;
    LOG("d2h %zu\n", bytes);
    if (bytes == sizeof(float) && !computes) *(float *)target = 8;
    else memcpy(target, (void *)source, bytes);
    return 0;
}
Result cuMemcpyDtoDAsync_v2(Address target, Address source, size_t bytes, void *stream) {
    memcpy((void *)target, (void *)source, bytes);
    return 0;
}
Result cuMemcpy2DAsync_v2(const Copy2D *copy, void *stream) {
    int host = 1;
    const char *source = copy->source_type == host ? copy->source_host : (const void *)copy->source;
    char *target = copy->target_type == host ? copy->target_host : (void *)copy->target;
    *(copy->source_type == host ? &to_device : &to_host) += copy->width * copy->height;
    LOG("copy2d %zu x %zu\n", copy->width, copy->height);
    for (size_t y = 0; y < copy->height; y++)
        memcpy(target + (y + copy->target_y) * copy->target_pitch + copy->target_x,
               source + (y + copy->source_y) * copy->source_pitch + copy->source_x, copy->width);
    return 0;
}

/* Kernels. */
static void write_module(const char *ptx, const char *name, int length) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%03ld_%.*s.ptx", modules_folder, modules, length, name);
    FILE *file = fopen(path, "w");
    if (!file) {
        perror(path);
        return;
    }
    fputs(ptx, file);
    fclose(file);
}
Result cuModuleLoadData(void **module, const char *ptx) {
    const char *entry = strstr(ptx, ".entry ");
    modules++;
    *module = computes ? (void *)strdup(ptx) : malloc(8);
    int length = entry ? (int)strcspn(entry + 7, "(\n") : 0;
    const char *name = entry ? entry + 7 : "";
    LOG("module %zu %.*s\n", strlen(ptx), length, name);
    if (modules_folder) write_module(ptx, name, length);
    return 0;
}
Result cuModuleUnload(void *module) { return 0; }
Result cuModuleGetFunction(Kernel **kernel, void *module, const char *name) {
    *kernel = calloc(1, sizeof **kernel);
    if (computes) (*kernel)->program = read_program(module, name);
    snprintf((*kernel)->name, sizeof (*kernel)->name, "%s", name);
    return 0;
}
Result cuFuncSetAttribute(Kernel *kernel, int attribute, int value) { return 0; }
Result cuFuncGetAttribute(int *value, int attribute, Kernel *kernel) { *value = 32; return 0; }
Result cuLaunchKernel(Kernel *kernel, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y,
                      unsigned threads_z, unsigned shared, void *stream, void **arguments, void **extra) {
    if (computes) {
        unsigned grid[] = {x, y, z}, block[] = {threads_x, threads_y, threads_z};
        double begun_at = now();
        interpret(kernel->program, grid, block, shared, arguments);
        LOG("took %.3f s\n", now() - begun_at);
    }
    double time = now();
    kernels++;
    busy_until = (busy_until > time ? busy_until : time) + (strstr(kernel->name, "throughput") ? 0.01 : seconds_a_kernel);
    LOG("launch %s %u,%u,%u %u,%u,%u %u\n", kernel->name, x, y, z, threads_x, threads_y, threads_z, shared);
    return 0;
}
Result cuTensorMapEncodeTiled(void) { return 0; }
Result cuTensorMapEncodeIm2col(void) { return 0; }
Result cuTensorMapEncodeIm2colWide(void) { return 0; }
