/* weft.h: tensor- and sequence-parallel Transformer blocks on any OpenCL device.
 *
 * The life of a program: a context (one rank: a device and its fabric), a model, a layout, params
 * (this rank's weights), a plan (what this rank does for a model, shape and layout), runs.
 *
 *     weft_context_create(&options, bootstrap, &context);
 *     weft_model_create("tiny", &model);                        or weft_model_fill(&model_options, &model);
 *     weft_layout_parse("tp2.sp", &layout);
 *     weft_params_create(context, model, layout, &params);      weft_params_init(params, seed);
 *     weft_plan_create(context, &plan_options, &plan);          weft_plan_load(plan, params);
 *     weft_plan_run(plan, &args, &result);                      one step of a whole model; or, of blocks alone:
 *     weft_plan_enqueue(plan, WEFT_FORWARD, NULL, stash, &args, NULL, &event);
 *     ... the caller's own loss: y -> dy ...
 *     weft_plan_enqueue(plan, WEFT_BACKWARD, NULL, stash, &args, NULL, &event);
 *
 * Conventions: outputs come last and are written on success only; arguments are borrowed; _destroy
 * takes NULL; calls return a weft_status, 0 is fine, and weft_last_error() gives the sentence.
 * "Collective" calls are made by all ranks of the context, in the same order; the others are local.
 * Not thread-safe per object. Nothing is printed unless WEFT_LOG or log_categories asks for it, nothing
 * global is touched, nothing exits. Every WEFT_* variable stands in for a field of weft_context_options
 * that was left out; weft_environment_describe lists them.
 *
 * Binaries: the structs and enums of this header, sizes and offsets included, and the signatures of its
 * calls are frozen for a SONAME (libweft.so.0): another field is another SONAME, new calls are added to it.
 * So a program loads a library whose structs are those it was compiled with, or none. Who loads it by
 * name (ctypes, dlopen) names the SONAME, not libweft.so, and copies the structs from host/api/weft.abi. */
#ifndef WEFT_H
#define WEFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define WEFT_API __attribute__((visibility("default")))
#else
#define WEFT_API
#endif

#define WEFT_VERSION "0.1.0"

typedef enum weft_status {
    WEFT_OK = 0,
    WEFT_ERR_ARGUMENT,    /* malformed or illegal request */
    WEFT_ERR_UNSUPPORTED, /* well-formed, but weft does not do it (yet) */
    WEFT_ERR_FILE,        /* a file is missing, damaged or foreign */
    WEFT_ERR_DEVICE,      /* no device, or an OpenCL call failed */
    WEFT_ERR_MEMORY,      /* host or device memory does not suffice */
    WEFT_ERR_FABRIC,      /* a message or shared window failed */
    WEFT_ERR_TIMEOUT,     /* a wait passed its deadline; the context refuses further work */
    WEFT_ERR_MISMATCH,    /* ranks disagree, or a check found a wrong result */
    WEFT_ERR_INTERNAL     /* weft's own invariant is broken */
} weft_status;

/* The calling thread's last sentence; valid until its next failing call. */
WEFT_API const char *weft_last_error(void);
WEFT_API const char *weft_version(void);
/* Frees any text that a call returned through a `char **`. */
WEFT_API void weft_text_free(char *text);

typedef struct weft_context weft_context;
typedef struct weft_model weft_model;
typedef struct weft_layout weft_layout;
typedef struct weft_params weft_params;
typedef struct weft_plan weft_plan;
typedef struct weft_stash weft_stash;
typedef struct weft_run weft_run;
/* How ranks find each other. NULL: alone. */
typedef struct weft_bootstrap weft_bootstrap;

/* ---- bootstrap --------------------------------------------------------------------------------------- */

/* weft_mpi.h makes one from an MPI communicator; here are those that need no MPI. Each is used by one
 * context at a time, of which it must outlive; destroy it after the context.
 *
 * Ranks as threads of this process: out[0] to out[ranks - 1], one for each thread, which makes its
 * context from it. Every thread has its own context, params, plans; nothing is shared but the
 * messages. CPU devices are cut into shares of cores, one per rank. Local. */
WEFT_API weft_status weft_bootstrap_local(int32_t ranks, weft_bootstrap **out);

/* Ranks that the caller connects. Functions return 0, or a code of his that is quoted in the error.
 * They are called from the thread that calls weft, never at once, and never after destroy. */
typedef struct weft_callbacks {
    void *user;                     /* first argument of each */
    int32_t rank, ranks;
    /* The node (a number that all ranks of a machine share), the rank's place on it and their count.
     * node_ranks 0: every rank counts as a node of its own, and no memory is shared. */
    int32_t node, node_rank, node_ranks;
    /* Nonblocking. Messages of one (sender, tag) meet receives in the order in which those were posted, whichever is
     * tested first, and have the length that is expected. Data stays untouched until `test` says done. Tags are 0 to
     * 2^15 - 1. */
    int (*send)(void *user, int32_t to, int32_t tag, const void *data, size_t bytes, void **request_out);
    int (*receive)(void *user, int32_t from, int32_t tag, void *data, size_t bytes, void **request_out);
    /* Never blocks; when *done_out becomes 1 the request is over and forgotten. */
    int (*test)(void *user, void *request, int *done_out);
    /* After a failure: gives a request up. 0: its memory is free again. NULL: none ever is. */
    int (*cancel)(void *user, void *request);
    /* Collective, blocking: rank i's bytes at all_out + i * bytes. NULL: made of send and receive. */
    int (*all_gather)(void *user, const void *mine, size_t bytes, void *all_out);
} weft_callbacks;
/* Collective over the ranks. */
WEFT_API weft_status weft_bootstrap_callbacks(const weft_callbacks *, weft_bootstrap **out);
/* Local, but for one of weft_mpi.h: collective over its ranks, which wait for each other, at most its deadline, and free its
 * communicator. A rank that has given up on a message of another does not wait, and where not all have come the
 * communicator stays: a late message may still reach it. */
WEFT_API void weft_bootstrap_destroy(weft_bootstrap *);

/* ---- context ---------------------------------------------------------------------------------------- */

/* Levels of what is logged: a warning is something that its user should know (a damaged checkpoint is
 * passed over, a CPU is used uncut), a note is what he asked for. */
typedef enum weft_log_level { WEFT_LOG_WARNING = 1, WEFT_LOG_NOTE = 2 } weft_log_level;

typedef struct weft_context_options {
    const char *device;     /* index, "platform.device", or part of its or its platform's name; NULL: WEFT_DEVICE, else the best */
    const char *transport;  /* "mpi", "staged", "window" forces one; NULL: WEFT_TRANSPORT, else by self-test. Sums of layers'
                             * gradients over cp are sent from the parameters' memory, which no window holds: then by the
                             * next fastest */
    const char *cache_dir;  /* of built programs; NULL: WEFT_CACHE_DIR, else the user's cache folder */
    double timeout_s;       /* deadline of every wait; 0: WEFT_TIMEOUT_S, else 60 */
    bool profile;           /* device timestamps, needed by traces */
    /* For programs that own their process. Called at most once, from a thread of weft's own that calls
     * neither MPI nor OpenCL, when this rank has been stuck for timeout_s and a second more (in a
     * driver's call too, where no deadline of the library can look), or when another rank of the node
     * has died. The sentence names ranks, step and operation. It should end the process: the job is
     * beyond help. NULL: no such thread. */
    void (*stuck)(void *user, const char *sentence);
    void *stuck_user;
    /* The caller's own OpenCL objects, retained until the context is destroyed. With a cl_context and
     * one of its cl_device_id (a sub-device, if he shares one out), `device` is not looked at, and his
     * buffers can be used in runs. weft makes queues of its own. A cl_command_queue of his gets a
     * marker and a wait per run, so that a run comes after what he enqueued before it and before what
     * he enqueues later, and is never finished; without it, he orders runs by events. */
    void *cl_context, *cl_device, *cl_queue;
    const char *cache;      /* program cache: "on", "off", "auto" (off, or what the driver's own lacks); NULL: WEFT_CACHE, else auto */
    /* For experiments. "20us,1.5GB/s": a message between ranks is not over before a link of this latency and rate, each
     * direction of a rank by itself, would have carried it; nobody is kept busy by that, so what runs meanwhile hides it.
     * "cut": exchanges move nothing, which shows what all else takes; results are wrong, so only block stacks
     * run. The same on every rank. NULL: WEFT_LINK, else neither. */
    const char *link;
    const char *kernel_dir; /* for kernel authors: .cl files are read from here; NULL: WEFT_KERNEL_DIR, else the embedded ones */
    /* What is said beside results, one line each, by category: "plan" (each plan that is made), "fabric"
     * (each pair of ranks, its transport and why it has no other), "device", "cache", "build", "checkpoint".
     * log gets the notes of the categories asked for, and every warning, from the thread that calls weft, and
     * must not call weft. NULL: what was asked for goes to stderr, warnings of these categories too, and
     * nothing else is printed. log_categories: joined by commas, or "all", or "" for none; NULL: WEFT_LOG, else none. */
    void (*log)(void *user, int level, const char *category, const char *sentence);
    void *log_user;
    const char *log_categories;
} weft_context_options;
WEFT_API void weft_context_options_init(weft_context_options *options);

/* The deadline that a context with this timeout_s has: 0 gives WEFT_TIMEOUT_S, or 60. */
WEFT_API double weft_timeout(double timeout_s);

/* Collective over the bootstrap's ranks. WEFT_ERR_DEVICE, too, where the driver executes programs out of a folder of its
 * own (PoCL) that somebody else could write to: the sentence names it and what to do. */
WEFT_API weft_status weft_context_create(const weft_context_options *, const weft_bootstrap *, weft_context **out);
WEFT_API void weft_context_destroy(weft_context *);
WEFT_API int32_t weft_context_rank(const weft_context *);
WEFT_API int32_t weft_context_ranks(const weft_context *);
/* Collective. All ranks' devices, caches of programs and transports; text or JSON. Only rank 0 gets a text, others NULL. */
WEFT_API weft_status weft_context_describe(weft_context *, bool json, char **text_out);
/* Every WEFT_* variable with its value, option and meaning, and every OpenCL device with the folders where
 * its programs are kept; opens none. */
WEFT_API weft_status weft_environment_describe(bool json, char **text_out);
/* Bytes and messages sent so far by this rank over a transport ("mpi", "staged", "window"). */
WEFT_API weft_status weft_context_sent(const weft_context *, const char *transport, int64_t *bytes_out, int64_t *messages_out);
/* Collective. Every rank gets the worst status of all; for callers that must stop together. */
WEFT_API weft_status weft_context_agree(weft_context *, weft_status mine);

/* ---- model ------------------------------------------------------------------------------------------- */

typedef struct weft_model_info {
    int64_t layers, hidden, heads, features, vocabulary, positions, parameters;
    double dropout_embedding, dropout_attention, dropout_residual, norm_epsilon;
    const char *activation;
    int64_t kv_heads, head_size, types;     /* types: rows of the token type embedding, 0: none */
    int64_t window;                         /* as in weft_model_options; 0: none */
    const char *family;                     /* "gpt2", "llama", "bert" */
    bool bidirectional, gated, has_head;    /* without a head: WEFT_HIDDEN only */
} weft_model_info;
/* A preset ("tiny", "gpt2"), or a Hugging Face config.json of a gpt2, llama, mistral, qwen2 or bert: its
 * path or its folder's. A field that is missing or absurd, or asks for what weft does not compute, is
 * WEFT_ERR_FILE or WEFT_ERR_UNSUPPORTED with a sentence naming it. Local. */
WEFT_API weft_status weft_model_create(const char *preset_or_path, weft_model **out);

/* Which linear layers have biases. */
typedef enum weft_bias { WEFT_BIAS_QKV = 1, WEFT_BIAS_PROJ = 2, WEFT_BIAS_MLP = 4, WEFT_BIASES_ALL = 7 } weft_bias;
/* What a config.json can say, said by the caller. A llama: norm, position_form, activation and head_form
 * "rmsnorm", "rope", "silu", "linear", gated, biases 0. A bert: activation "gelu", head_form "transform",
 * norm_epsilon 1e-12, types 2, post_norm, bidirectional, embedding_norm. Forms may be mixed, but
 * weft_params_save refuses a mixture that no config.json of the family can say. */
typedef struct weft_model_options {
    const char *family;         /* whose names, transposes and config.json its files have: "gpt2" (NULL), "llama", "bert" */
    int64_t layers, hidden, heads, vocabulary, positions;   /* init: GPT-2's 12, 768, 12, 50257, 1024 */
    int64_t kv_heads, head_size, features;  /* 0: heads, hidden / heads, 4 * hidden */
    int64_t types;              /* rows of the token type embedding; 0: none */
    /* Sliding-window attention, in all layers: a query sees the keys whose positions differ from its own by less than
     * window; with its own, window keys of the past, and, if bidirectional, window - 1 of the future. 0: none; one of
     * `positions` or more hides nothing and is none. Causal, it is what transformers (5.24) makes of sliding_window in
     * Mistral and Qwen2: key > query - sliding_window. Its bidirectional masks take in distance sliding_window, too: theirs
     * is one less than weft's. */
    int64_t window;
    const char *activation;     /* "gelu_tanh" (NULL), "gelu", "relu", "silu" */
    const char *norm;           /* "layernorm" (NULL), "rmsnorm": no mean, no bias */
    const char *position_form;  /* "learned" (NULL), "rope", "none" */
    const char *head_form;      /* "linear" (NULL), "transform": BERT's, "none": WEFT_HIDDEN only */
    uint32_t biases;            /* weft_bias, joined by |; init: all */
    bool gated;                 /* MLP: act(gate) * up, as in SwiGLU */
    bool post_norm;             /* norms after the residual sums, and no last one; else before each half */
    bool bidirectional;         /* else causal */
    bool embedding_norm;        /* of the summed embeddings */
    bool tied_head;             /* the head's matrix is the token embedding; init: true */
    double norm_epsilon;        /* 0: 1e-5 */
    double init_std;            /* of weft_params_init; 0: 0.02 */
    double dropout_embedding, dropout_attention, dropout_residual;
    /* Of "rope" only. theta 0: 10000. Scaling: factor alone is linear; with low and high frequency
     * factors and original positions it is Llama 3's; factor 0: none. */
    double rope_theta, rope_factor, rope_low_frequency, rope_high_frequency;
    int64_t rope_original_positions;
} weft_model_options;
WEFT_API void weft_model_options_init(weft_model_options *);
/* WEFT_ERR_ARGUMENT names the field that is not legal. Nothing of the options is kept. Local. */
WEFT_API weft_status weft_model_fill(const weft_model_options *, weft_model **out);
WEFT_API void weft_model_destroy(weft_model *);
WEFT_API void weft_model_describe(const weft_model *, weft_model_info *out);

/* ---- layout ------------------------------------------------------------------------------------------- */

/* "tp2.sp": terms joined by dots; "" or "tp1" is one rank. Errors point at the place. */
WEFT_API weft_status weft_layout_parse(const char *text, weft_layout **out);
WEFT_API void weft_layout_destroy(weft_layout *);
WEFT_API int32_t weft_layout_ranks(const weft_layout *);
/* Canonical text; `out` gets at most out_bytes with its end mark. */
WEFT_API void weft_layout_print(const weft_layout *, char *out, size_t out_bytes);
/* Ranks of unlike speed: tp-shares2-1 and cp-shares2-1 give the first of two twice the other's part; without numbers, as in
 * "cp2ring.cp-shares", the parts follow the devices' speeds. This makes a layout in which numbers stand in their place, percent of
 * the fastest: each rank's device is measured, all at the same time, for a second, at a product of 1024 cubed; within 5% of each
 * other they are equal, and it has none. A layout without shares to measure is copied; without a context (NULL) all are
 * taken for equal. Params and plans of a context refuse a layout that is still to be measured, and all of one model must have the
 * same numbers: measure once. Collective; the same layout on every rank. The caller destroys *out. */
WEFT_API weft_status weft_layout_measure(weft_context *, const weft_layout *, weft_layout **out);

/* ---- params -------------------------------------------------------------------------------------------- */

/* This rank's shards of weights, gradients and optimizer state. Collective. */
WEFT_API weft_status weft_params_create(weft_context *, const weft_model *, const weft_layout *, weft_params **out);
/* How the matrices that only products read lie in this rank's memory; params and their plans must agree.
 * What calls read and write, gather, load and save is row-major whatever the order. */
typedef enum weft_order {
    WEFT_ORDER_AUTO,        /* PANELS on CPU devices, else (and in a plan without a context) ROWS */
    WEFT_ORDER_ROWS,        /* row-major: what weft_params_bind and every GEMM variant take */
    WEFT_ORDER_PANELS       /* panels of 32 rows, the last one padded with zeros: what CPUs multiply by */
} weft_order;
/* Collective; each rank may have an order of its own. */
WEFT_API weft_status weft_params_create_ordered(weft_context *, const weft_model *, const weft_layout *, weft_order,
                                                weft_params **out);
WEFT_API void weft_params_destroy(weft_params *);
/* GPT-2's initialisation from Philox on global indices: the same weights under every layout. Clears
 * optimizer state. Takes effect for every plan loaded with these params, before or after. Local. */
WEFT_API weft_status weft_params_init(weft_params *, uint64_t seed);
/* Rows of the parameter table: name ("layer.attn.qkv.weight"), instances (layers or 1), this rank's
 * rows and columns. index from 0 to count - 1. */
typedef struct weft_tensor_info {
    const char *name;
    int64_t instances, rows, columns, global_rows, global_columns;
} weft_tensor_info;
WEFT_API int32_t weft_params_count(const weft_params *);
WEFT_API weft_status weft_params_info(const weft_params *, int32_t index, weft_tensor_info *out);
/* Copies one instance's shard (f32, rows * columns) out of or into what = "" (weights), "grad", "m", "v". */
WEFT_API weft_status weft_params_read(weft_params *, int32_t index, const char *what, int64_t instance, float *out);
WEFT_API weft_status weft_params_write(weft_params *, int32_t index, const char *what, int64_t instance, const float *data);
/* Collective. The whole tensor, gathered from all ranks, on every rank. */
WEFT_API weft_status weft_params_gather(weft_params *, int32_t index, const char *what, int64_t instance, float *out);

/* Collective. Weights of a Hugging Face model: a folder (model.safetensors, or shards by
 * model.safetensors.index.json) or one .safetensors file; F32, F16, BF16 or F64. Names, transposes and
 * fused projections are the model's family's; each rank reads its own shard only. Clears optimizer
 * state. WEFT_ERR_FILE names a tensor that is missing, unknown or of another shape, and what is
 * damaged, before anything is loaded. */
WEFT_API weft_status weft_params_load(weft_params *, const char *path);
/* Collective. Writes folder/config.json and folder/model.safetensors (f32, the family's names), which
 * `transformers` opens: whole or not at all. A folder that is there is replaced in one step; its other
 * files stay. Only rank 0 writes; memory is bounded by the largest tensor. */
WEFT_API weft_status weft_params_save(weft_params *, const char *folder);

/* ---- memory of the caller's -------------------------------------------------------------------------- */

/* Where rows of f32 lie, without gaps: in a buffer of the context's cl_context (see its options), or
 * in host memory, which must stay until the run is done. All NULL: nowhere. */
typedef struct weft_buffer {
    void *cl_mem;
    int64_t offset_bytes;       /* a multiple of 4 */
    void *host;
} weft_buffer;
/* From a DLPack tensor (a `DLTensor *`, e.g. &managed->dl_tensor) of float32 without gaps, on device
 * kDLOpenCL or kDLCPU, of `elements` elements (0: any number). The tensor's owner keeps it. Local. */
WEFT_API weft_status weft_buffer_from_dlpack(const void *dl_tensor, int64_t elements, weft_buffer *out);
/* From now on this instance of a tensor (what = "", "grad", "m", "v" as above) lies in the caller's
 * OpenCL buffer, which is retained; NULL: in weft's memory again. Nothing is copied. Between runs.
 * Where all tensors of a kind are bound before their first use, weft takes no memory for them. The buffer
 * is row-major: a tensor that lies in panels is refused (WEFT_ORDER_ROWS takes all). Local. */
WEFT_API weft_status weft_params_bind(weft_params *, int32_t index, const char *what, int64_t instance, const weft_buffer *);

/* ---- checkpoints ---------------------------------------------------------------------------------------- */

/* Where a training stands. save writes `layout` (that of the params) and `choices_hash` (of the plan
 * that was last loaded to train them, 0 if none was) itself. */
typedef struct weft_progress {
    int64_t step;           /* steps done, so the next one to run */
    uint64_t seed;
    int64_t data_position;  /* these two are the caller's */
    uint64_t data_hash;
    uint64_t choices_hash;
    char layout[384];
} weft_progress;
/* Collective, with the same progress on every rank. Writes folder/step-<n> (config, weights, optimizer
 * state where there is any, progress with the SHA-256 of each file) whole or not at all: under another
 * name, synced, renamed, after all ranks have agreed. Makes the folder. Of the checkpoints up to this
 * step the newest `keep` stay (0: all), never fewer than this one. A failure leaves what was there. */
WEFT_API weft_status weft_checkpoint_save(weft_params *, const char *folder, const weft_progress *, int32_t keep);
/* Collective. path: one checkpoint, or a folder of them: the newest that is whole (a damaged one is
 * passed over, with a warning: see `log`). Saved under any layout, loaded under any: the same bits of
 * weights, m and v; plans that train may be loaded before or after. WEFT_ERR_FILE with a sentence if
 * there is none. Every file is hashed before anything is loaded. */
WEFT_API weft_status weft_checkpoint_load(weft_params *, const char *path, weft_progress *out);

/* ---- plan ----------------------------------------------------------------------------------------------- */

typedef enum weft_mode {
    WEFT_TRAIN,     /* forward, backward, gradient norm, AdamW */
    WEFT_GRADIENTS, /* forward and backward; gradients stay in params */
    WEFT_EVALUATE,  /* loss, no dropout */
    WEFT_LOGITS,    /* logits on every rank, no dropout */
    WEFT_HIDDEN,    /* the last hidden states, after the final norm where there is one, on every rank; no dropout */
    WEFT_BLOCKS = 16 /* layers alone: hidden states in, hidden states out; in phases, see below */
} weft_mode;

/* What a plan of WEFT_BLOCKS does, in parts that the caller runs when he likes, with a loss of his own
 * between them. Let a microbatch be batch / N sequences under mbN.
 *   FORWARD   one microbatch: x -> y; keeps in a stash what backward needs
 *   BACKWARD  the microbatch of a stash: dy -> dx; writes the weights' gradients, or adds to them
 *   FINISH    after the step's last backward, before gradients are read: sums over the ranks what
 *             each has seen of tensors that all hold
 *   OPTIMIZE  gradient norm over the layers, clipping, AdamW; does FINISH where it was not done */
typedef enum weft_phase {
    WEFT_FORWARD = 1,
    WEFT_BACKWARD = 2,
    WEFT_FINISH = 4,
    WEFT_OPTIMIZE = 8
} weft_phase;

typedef struct weft_plan_options {
    const weft_model *model;
    const weft_layout *layout;
    int64_t batch, sequence;    /* global batch in sequences, tokens per sequence */
    weft_mode mode;
    int32_t rank;               /* without a context: whose plan (default 0) */
    int64_t memory_bytes;       /* without a context: refuse what needs more of a rank's device; 0: no limit */
    const char *gemm;           /* variant of every GEMM, "simple" or "clblast"; NULL: weft's choice */
    /* WEFT_BLOCKS: which phases will be run. 0: all but OPTIMIZE, which needs memory for its state.
     * FORWARD alone evaluates: no dropout, nothing is kept. */
    uint32_t phases;
    weft_order order;           /* of the params that it will be loaded with */
    /* Sequences are packed with documents (weft_args.documents): a token sees those of its own document only, on whatever rank
     * they lie. Arithmetic goes with what is seen, because tiles that no document spans are left out; messages under cp do
     * not, because the plan is made before the documents are known. */
    bool documents;
} weft_plan_options;
WEFT_API void weft_plan_options_init(weft_plan_options *);

/* With a context: collective, made for its rank, device and transports; refuses with WEFT_ERR_MEMORY,
 * the bytes by class and some layouts that would fit when it cannot. Without (NULL): local and pure, any rank of any layout. */
WEFT_API weft_status weft_plan_create(weft_context *, const weft_plan_options *, weft_plan **out);
/* Collective where it was made with a context. */
WEFT_API void weft_plan_destroy(weft_plan *);

typedef struct weft_plan_info {
    int64_t device_bytes, window_bytes, host_bytes;      /* by space: what a run allocates */
    int64_t parameter_bytes, gradient_bytes, optimizer_bytes, activation_bytes, workspace_bytes, io_bytes; /* by class */
    double flops;                                         /* of one run on this rank */
    int64_t sent_bytes, received_bytes, messages;         /* of one run on this rank */
    int64_t all_gather_bytes, reduce_scatter_bytes;       /* sent, by collective */
    int64_t segments, steps, calls;
    uint64_t hash;
} weft_plan_info;
WEFT_API void weft_plan_describe(const weft_plan *, weft_plan_info *out);
/* The schedule as text: per segment, its steps, lanes, exchanges, fusions, what is kept. */
WEFT_API weft_status weft_plan_explain(const weft_plan *, char **text_out);
/* Proves over all ranks of the layout that exchanges match, reads are covered and nothing deadlocks. Local, pure. */
WEFT_API weft_status weft_plan_check(const weft_plan *);

/* Rows of hidden states on this rank, of one microbatch: position-major, row i * samples + s is the rank's i-th
 * position of sample s. All positions on every rank; under `sp` and `cp` a rank has its own, balanced (few tokens leave
 * some with none), ascending, in two runs at most: the i-th is first_position + i, from the gap_at-th on `gap` more (gap 0: one run).
 * Two runs: cp's zigzag, which evens out a causal mask. */
typedef struct weft_rows {
    int64_t samples, positions, first_position, hidden, gap_at, gap;
} weft_rows;
WEFT_API void weft_plan_rows(const weft_plan *, weft_rows *out);

/* Collective. Allocates what the plan needs, builds its kernels, binds the params. */
WEFT_API weft_status weft_plan_load(weft_plan *, weft_params *);

typedef struct weft_args {
    const int32_t *tokens;      /* [batch][sequence], the same on every rank */
    const int32_t *targets;     /* [batch][sequence]; negative: not counted; NULL in WEFT_LOGITS, WEFT_HIDDEN */
    /* Of plans made with documents, and of no others, the same on every rank; of WEFT_BLOCKS in FORWARD (a backward takes those of
     * its forward): [batch][sequence], the number of the document that a token belongs to. Another number begins another
     * document; one that comes back later in its sequence is refused. Learned positions are counted from the document's first
     * token; rotary ones go on, which makes no difference, because they act by distance. Whether a document's last token is to
     * tell the next one's first say the targets. */
    const int32_t *documents;
    uint64_t seed;              /* of dropout */
    int64_t step;               /* from 0; dropout's counter and Adam's t = step + 1 */
    float learning_rate, beta1, beta2, epsilon, weight_decay, max_norm; /* max_norm 0: no clipping */
    /* WEFT_BLOCKS, instead of tokens and targets: this rank's rows (weft_plan_rows), [rows][hidden] f32.
     * FORWARD reads x and writes y, BACKWARD reads dy and writes dx (nowhere: it is not wanted). */
    weft_buffer x, y, dy, dx;
    int64_t microbatch;         /* FORWARD: which one, from 0: where its samples stand in the batch, for dropout */
    bool accumulate;            /* BACKWARD: gradients are added to; else written anew: a step's first */
} weft_args;
/* AdamW defaults: 1e-3, 0.9, 0.999, 1e-8, 0.01, 1.0. */
WEFT_API void weft_args_init(weft_args *);

typedef struct weft_result {
    double loss;                /* mean over the global valid tokens, nats */
    int64_t tokens;             /* that were counted */
    double grad_norm;           /* before clipping; WEFT_TRAIN only */
    double seconds;
} weft_result;
/* Collective. Blocks until the device is done. Not for WEFT_BLOCKS. */
WEFT_API weft_status weft_plan_run(weft_plan *, const weft_args *, weft_result *out);

/* Activations of one microbatch in flight, of a loaded plan of WEFT_BLOCKS. Several may be alive:
 * forward A, forward B, backward A, backward B. A forward fills a stash, a backward empties it, with
 * the seed, step and microbatch of that forward. Local. Destroy it before the context. */
WEFT_API weft_status weft_stash_create(weft_plan *, weft_stash **out);
WEFT_API void weft_stash_destroy(weft_stash *);
WEFT_API int64_t weft_stash_bytes(const weft_stash *);

typedef struct weft_events {
    int32_t count;
    void *const *events;        /* cl_event, of the context's cl_context */
} weft_events;

/* Collective: all ranks run the same phases in the same order. Runs the phases asked for (weft_phase,
 * joined by |) in their order. Starts on the device after the events (NULL: none). Blocks while the
 * ranks exchange and until the last kernel is enqueued; the rest is told by *event_out, a cl_event
 * that the caller releases. event_out NULL: blocks until the device is done. params NULL: those of
 * load; others must be of the same model and layout. stash: of FORWARD and BACKWARD; NULL where the
 * plan's only phase is FORWARD. */
WEFT_API weft_status weft_plan_enqueue(weft_plan *, uint32_t phases, weft_params *, weft_stash *, const weft_args *,
                                       const weft_events *wait, void **event_out);

/* The same for hosts with a loop of their own: neither start nor advance blocks (but where a forward of WEFT_BLOCKS brings documents,
 * start waits until the device has read those of the one before). One run per context
 * is in progress at a time: until it has been submitted no other can start. A plan of a whole model
 * takes phases 0 and no stash; it must be done before it starts again. A run's deadline
 * counts only the time in which it is advanced. */
WEFT_API weft_status weft_run_start(weft_plan *, uint32_t phases, weft_params *, weft_stash *, const weft_args *,
                                    const weft_events *wait, weft_run **out);
/* Moves exchanges on and enqueues what has become possible. *done_out: the device is done, too. */
WEFT_API weft_status weft_run_advance(weft_run *, bool *done_out);
/* Is everything enqueued and every exchange over? */
WEFT_API bool weft_run_submitted(const weft_run *);
/* Ends a run and forgets it: blocks until it is submitted, and then as weft_plan_enqueue does. */
WEFT_API weft_status weft_run_finish(weft_run *, void **event_out);
/* Of the last run of the plan: loss, tokens, gradient norm, as far as it has them. Blocks until the
 * device is done. Local. */
WEFT_API weft_status weft_plan_result(weft_plan *, weft_result *out);
/* After a WEFT_LOGITS run: logits of one token, [vocabulary] f32. Local. */
WEFT_API weft_status weft_plan_logits(weft_plan *, int64_t sample, int64_t position, float *out);
/* After a WEFT_HIDDEN run: the hidden state of one token, [hidden] f32. Local. */
WEFT_API weft_status weft_plan_hidden(weft_plan *, int64_t sample, int64_t position, float *out);
/* Allocated bytes of device, window and host memory, counted at every buffer creation. */
WEFT_API void weft_plan_allocated(const weft_plan *, int64_t *device_bytes, int64_t *window_bytes, int64_t *host_bytes);
/* Collective. Records the next runs; writes one merged Perfetto JSON of all ranks (rank 0 writes). */
WEFT_API weft_status weft_plan_trace(weft_plan *, bool on);
WEFT_API weft_status weft_plan_trace_write(weft_plan *, const char *path);

/* ---- verify ----------------------------------------------------------------------------------------------- */

typedef struct weft_verdict {
    const char *case_text, *candidate; /* "gemm:f32:m65n33k17:nt.bias", "simple TILE_M=64 ..." */
    bool ok, skipped;
    double worst;                       /* largest error over its bound */
    const char *sentence;
} weft_verdict;
/* Every candidate (all = false: every variant at its defaults and at the device's values) of the case, of all built-in cases of an
 * operation when only its name is given ("gemm"), or of the whole built-in list when NULL, against the f64
 * references on this context's device. `report` is called for each; returns WEFT_ERR_MISMATCH if any failed,
 * and WEFT_ERR_UNSUPPORTED for a block: tests/host/check_block_forms checks those. Local. */
WEFT_API weft_status weft_verify(weft_context *, const char *case_text, bool all,
                                 void (*report)(void *user, const weft_verdict *), void *user);

/* ---- bench ------------------------------------------------------------------------------------------------ */

/* One rank's device, and what it was measured to do at most. */
typedef struct weft_machine {
    int32_t rank;
    const char *device, *type, *platform, *driver;
    int32_t compute_units, clock_mhz;   /* clock 0: the driver does not say */
    double flops_per_s;                 /* f32 multiply-adds, 2 each, in chains that do not wait for each other */
    double bytes_per_s;                 /* the faster of copying and updating arrays larger than any cache */
    double launch_s;                    /* of a kernel that does nothing, one of many in a row */
} weft_machine;

/* One candidate of one case. Times are of one run, over samples in which every case took its turn; with
 * several ranks the slowest counts, and work and rates are the sums of all of them. Rates are those of
 * the minimum; shares are of the sum of the ranks' measured peaks. */
typedef struct weft_timing {
    const char *case_text, *candidate;
    bool skipped;                       /* this candidate is not for this problem: `sentence` says why */
    const char *sentence;
    double minimum_s, quartile1_s, median_s, quartile3_s;
    int32_t samples;
    int64_t runs_per_sample;
    double flops, bytes;                /* of one run; bytes: every operand once */
    double flops_share, bytes_share;    /* of the peaks, 1 is all; bytes_share may pass 1 where caches hold the operands */
    double launch_share;                /* part of the minimum that launches cost */
    double copy_share, fma_share;       /* median time of what bounds it, alone, taken in turns with it, by the median: copying as
                                           many bytes, half read, half written, or, from 16 flops a byte, as many multiply-adds;
                                           0: the other does, or there is no memory for it */
} weft_timing;

typedef struct weft_bench_options {
    const char *const *cases;   /* operations as in weft_verify, "gemm" for all built-in ones of an operation, blocks */
    int32_t ncases;             /* 0: the built-in list */
    const weft_layout *layout;  /* of blocks; NULL: one rank, or tpN.sp of the context's N ranks */
    const char *candidate;      /* "panel", "simple TILE_M=64", several joined by ";": of every case (of a block: its GEMMs' variant); NULL: the device's default */
    bool all;                   /* every variant */
    int32_t repeats;            /* samples of each; 0: as many as `seconds` allows, at least 5 */
    double seconds;             /* to spend on each; 0: 1 */
    void (*machine)(void *user, const weft_machine *);  /* called first, once per rank; may be NULL */
    void (*timing)(void *user, const weft_timing *);    /* called for each, in order, when all are measured */
    void *user;
} weft_bench_options;
WEFT_API void weft_bench_options_init(weft_bench_options *);
/* Collective. Times cases on the context's devices. Results are not checked: weft_verify does. */
WEFT_API weft_status weft_bench(weft_context *, const weft_bench_options *);

#ifdef __cplusplus
}
#endif
#endif
