/* The C interface of the Tripos kernels: load a plan, reserve cache memory, run steps.
 *
 * Every function that can fail returns 0 or -1; tripos_error() then says why (per thread, valid until the next
 * call). Nothing throws across this interface. An executor is used by one thread at a time.
 */
#ifndef TRIPOS_H_
#define TRIPOS_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define TRIPOS_API __attribute__((visibility("default")))
#else
#define TRIPOS_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define TRIPOS_ABI 7 /* changes whenever a struct or type below or the plan's layout (plan/plan.h) does */

typedef struct TriposExecutor TriposExecutor;

/* Told now and then which part of a load is done, 0 to 1, on the thread that loads. 0: the load is to end, and fails. */
typedef int (*TriposProgress)(double done);

/* Element and block formats of checkpoint tensors (src/tripos/plan/formats.py is their definition). */
enum TriposFormat {
  TRIPOS_F32 = 0,
  TRIPOS_F16 = 1,
  TRIPOS_BF16 = 2,
  TRIPOS_Q8_0 = 3,
  TRIPOS_Q4_0 = 4,
  TRIPOS_Q4_K = 5,
  TRIPOS_Q5_K = 6,
  TRIPOS_Q6_K = 7,
  TRIPOS_Q4_1 = 8,
  TRIPOS_Q5_0 = 9,
  TRIPOS_Q5_1 = 10,
  TRIPOS_Q2_K = 11,
  TRIPOS_Q3_K = 12,
  TRIPOS_NUM_FORMATS = 13,
  TRIPOS_PANELS = 255 /* a whole packed weight, as tripos_panels gave it */
};

typedef struct {
  int32_t abi; /* TRIPOS_ABI */
  int32_t block_size;
  int32_t max_num_tokens;
  int32_t max_num_rows;
  int32_t threads;      /* 0: one per core that this process may use */
  int32_t profile;      /* 1: describe tells the seconds of each kind of phase; costs about 1 % */
  int32_t max_adapters; /* slots; 0: none */
  int32_t reserved;
  const char* weights;  /* auto, fp32, bf16, fp16, int8, int4, fp8 */
  const char* kv_cache; /* auto, fp32, fp16, int8 */
  const char* isa;      /* auto, or one that tripos_about names */
} TriposOptions;

/* A checkpoint tensor: rows of `cols` values (a vector is one row). Matrices of linears are packed or copied by load;
 * what an embed reads must outlive the executor. */
typedef struct {
  const char* name;
  const void* data;
  int64_t bytes;
  int64_t rows;
  int64_t cols;
  int32_t format;
  int32_t panel_format; /* of TRIPOS_PANELS */
  int32_t is_mapped;    /* 1: lies in a mapped file, whose pages may be let go once read */
  int32_t reserved;
} TriposWeight;

/* A linear's weight as the kernels hold it, the same for every instruction set. tripos_about tells the version of this
 * layout ("panel_layout"); `data` lives as long as the executor is loaded. */
typedef struct {
  const void* data;
  int64_t bytes;
  int32_t panel_format; /* linear.h, WeightFormat; 256 is added when two parts are interleaved */
  int32_t reserved;
} TriposPanels;

/* What an adapter adds to rows [first_row, first_row + rows) of a loaded plan's weight: scale * b * a, both row-major,
 * a [rank, cols] and b [rows, rank]. Its products with the input take columns from first_col of the linear's shrunk
 * tensor. */
typedef struct {
  const void* a;
  const void* b;
  int64_t first_row, rows, cols;
  int32_t weight;
  int32_t first_col;
  int32_t rank;
  int32_t format; /* TRIPOS_F32 or TRIPOS_BF16 */
  float scale;
  int32_t reserved;
} TriposLowRank;

/* One step; arrays as in runtime/executor.py, all int32 unless typed otherwise, C-contiguous. */
typedef struct {
  int32_t num_tokens, num_seqs, num_rows, max_blocks;
  const int32_t* token_ids;    /* [num_tokens] */
  const int32_t* positions;    /* [num_tokens] */
  const int32_t* query_start;  /* [num_seqs + 1] */
  const int32_t* seq_lens;     /* [num_seqs] */
  const int32_t* block_tables; /* [num_seqs, max_blocks] */
  const int32_t* slots;        /* [num_tokens] */
  const int32_t* last_rows;    /* [num_rows] */
  const int32_t* token_types;  /* [num_tokens], read if there are some and the plan asks */
  /* sampling, [num_rows] unless stated */
  const float* temperature;
  const int32_t* top_k;
  const float* top_p;
  const float* min_p;
  const float* repetition_penalty;
  const float* presence_penalty;
  const float* frequency_penalty;
  const uint64_t* seed;
  const uint64_t* counter;
  const int32_t* forced_token;
  const int32_t* num_logprobs;
  const int32_t* history_start; /* [num_rows + 1] */
  const int32_t* history_ids;
  const int32_t* history_counts;
  const int32_t* bias_start; /* [num_rows + 1] */
  const int32_t* bias_ids;
  const float* bias_values;
  const int32_t* mask_row;
  const uint32_t* mask; /* [num_masks, mask_words] */
  const int32_t* wanted_start; /* [num_rows + 1] */
  const int32_t* wanted_ids;
  int32_t num_masks, mask_words;
  int32_t history_size, bias_size, wanted_size; /* lengths of history_ids, bias_ids and wanted_ids */
  const int32_t* adapter_slots; /* [num_seqs], -1: none; NULL: no sequence uses an adapter */
} TriposStep;

typedef struct {
  int32_t* token_ids;  /* [num_rows] */
  float* logprobs;     /* [num_rows] */
  int32_t* top_ids;    /* [num_rows, top_width] */
  float* top_logprobs; /* [num_rows, top_width] */
  uint8_t* ok;         /* [num_rows] */
  float* logits;       /* [num_rows, vocab_size] or NULL */
  float* wanted_logprobs; /* [wanted_size] */
  int32_t top_width;
  int32_t reserved;
} TriposOutput;

/* What tripos_measure can measure; the result is per second. */
enum TriposPeak {
  TRIPOS_PEAK_READ = 0,     /* bytes read from a working set of `bytes` per thread */
  TRIPOS_PEAK_FP32 = 1,     /* float operations, fused multiply-add */
  TRIPOS_PEAK_BF16 = 2,     /* bf16 dot product operations; -1 where the CPU has none */
  TRIPOS_PEAK_INT8 = 3,     /* int8 dot product operations: VNNI, or what the instruction set has for them */
  TRIPOS_PEAK_BARRIERS = 4, /* thread barriers */
  TRIPOS_PEAK_AMX_INT8 = 5, /* int8 tile operations; -1 where the CPU has none or the kernel refuses them */
  TRIPOS_PEAK_AMX_BF16 = 6  /* bf16 tile operations; -1 as above */
};

/* Text: library version, CPU name, instruction sets that this build and this CPU share, why there is no AMX (empty: it
 * is usable), cores, formats. The first call asks the kernel for AMX. */
TRIPOS_API const char* tripos_about(void);
/* The table of ops, a line for each: `name(inputs; weights) -> outputs: attribute=type ...` (plan/op_table.h). */
TRIPOS_API const char* tripos_ops(void);
TRIPOS_API const char* tripos_error(void);

TRIPOS_API int tripos_create(const TriposOptions* options, TriposExecutor** executor);
TRIPOS_API void tripos_destroy(TriposExecutor* executor);
TRIPOS_API int tripos_load(TriposExecutor* executor, const void* plan, size_t plan_bytes, const TriposWeight* weights,
                           size_t num_weights, TriposProgress progress); /* progress: or NULL */
/* The packed form of weight `weight` of the loaded plan, which a linear must use. */
TRIPOS_API int tripos_panels(TriposExecutor* executor, int32_t weight, TriposPanels* panels);
TRIPOS_API int tripos_reserve(TriposExecutor* executor, int64_t num_blocks);
/* Copies an adapter into a slot; no modules: frees it. Another thread may run a step meanwhile that does not use it. */
TRIPOS_API int tripos_set_adapter(TriposExecutor* executor, int32_t slot, const TriposLowRank* modules, size_t num_modules);
TRIPOS_API int tripos_run(TriposExecutor* executor, const TriposStep* step, const TriposOutput* output);

/* While 1s outweigh -1s, a mapped file that is shortened reads as zeros behind its end, where SIGBUS would end the
 * process. For all threads. -1 fails, and counts, when such zeros were read. */
TRIPOS_API int tripos_guard(int32_t change);

/* Lines of `key=value` about a created (and, for kernels and sizes, loaded) executor. */
TRIPOS_API const char* tripos_describe(TriposExecutor* executor);

/* `count` values of a checkpoint format to float32; count is a multiple of the format's block. */
TRIPOS_API int tripos_dequantize(int32_t format, const void* blocks, int64_t count, float* values);
TRIPOS_API int tripos_measure(int32_t peak, const char* isa, int32_t threads, int64_t bytes, double* per_second);

#ifdef __cplusplus
}
#endif

#endif /* TRIPOS_H_ */
