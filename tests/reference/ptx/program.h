/* What a kernel is, read, and what its threads keep. */
#include <ctype.h>
#include <math.h>
#include <pthread.h>
#include <unistd.h>

enum { LANES = 32, MOST_OPERANDS = 40 };
typedef uint64_t Word;

// clang-format off
enum Op { MOV, PACK, UNPACK, ADD, SUB, MUL, MULHI, MULWIDE, MAD, MADHI, MADWIDE, FMA, DIV, REM, MIN, MAX, NEG, ABS, NOT, AND,
    OR, XOR, SHL, SHR, BFE, CLZ, POPC, PRMT, SHF, SELP, SETP, CVT, LD, ST, ATOM, BRA, RET, BAR, NOP, SHFL, ACTIVE, MMA, LDMATRIX,
    STMATRIX, WLOAD, WMMA, WSTORE, EX2, LG2, RCP, SQRT, RSQRT, SIN, COS, TANH, COPYSIGN };
// clang-format on
enum Type { B8, B16, B32, B64, U8, U16, U32, U64, S8, S16, S32, S64, F16, F16X2, BF16, BF16X2, F32, F64, TF32, PRED };

/* Which register, in words of a warp's file; where a constant lies; or what is at an address. */
typedef struct {
    int reg;
    Word *constant;
    long offset;
} Operand;

typedef struct {
    enum Op op;
    enum Type type, from; /* of what is found, and of what it is found from */
    int guard, unless;    /* the predicate's register or -1; whether it must be false */
    int target, meet;     /* of a branch: where to, and where both ways come together */
    int count, vector;    /* operands, and how many of them are the vector */
    const char *text;
    int nan, carry_in, carry_out, saturate, rounds; /* .NaN, madc, .cc, .sat; 'm' of .rm, and so on */
    int compare;                                    /* of setp: which of the comparisons */
    int kind;                                       /* wmma: 'a', 'b' or 'd'; shfl: 'b' of bfly, 'i' of idx; shf: 'l' */
    int with_predicate;                             /* shfl: whether it tells who had a number to give */
    int m, n, k, by_column, transposed, pieces;     /* of matrices; how many of them at once */
    Operand operands[MOST_OPERANDS];
} Instruction;

typedef struct {
    char name[96];
    int reg;
} Name;
/* Memory that has a name: 's'hared, 'l'ocal to a thread, or 'g'lobal with the bytes it begins with. */
typedef struct {
    int reg;
    long size;
    int space;
    unsigned char *bytes;
} Variable;

/* A kernel. Whatever has a name is a register: special ones, parameters and variables hold where they lie. */
typedef struct {
    Instruction *code;
    int length, registers, names_count, variables_count;
    Name *names;
    Variable *variables;
    int param_reg[64], params;
    long param_offset[64], param_size[64], param_bytes;
} Program;

/* Threads that go on together from `pc`, until they meet those that they parted from, at `until`. */
typedef struct {
    int pc, until;
    uint32_t mask;
} Path;
enum { MOST_PATHS = 256 };
/* A register is LANES words of `regs`, a thread's each. */
typedef struct {
    Word *regs;
    uint32_t alive;
    int carry[LANES], depth;
    Path paths[MOST_PATHS];
} Warp;

static void stop(const char *what, const char *text) {
    fprintf(stderr, "PTX: %s: %.*s\n", what, (int)strcspn(text, "\n"), text);
    abort();
}
