#!/usr/bin/env bash
# gcc 12's AMX intrinsics do not tell the compiler what they read. _tile_loadconfig is an asm whose operand is a pointer's
# eight bytes of the configuration's 64, _tile_loadd is one without any memory operand. At -O2 a configuration or a tile
# that is filled in a local variable loses its stores: ldtilecfg then faults, for rows and columns are 0, and a tile is of
# whatever lay on the stack. llama.cpp (llama-cpp-python 0.3.36) crashes so on processors with AMX. A barrier
# (asm with a "memory" clobber) or static data keeps the stores; -fno-tree-dse -fno-dse does, for other people's code.
#
# Seen: gcc 12.2.0. Compiles only, so it shows the same on any x86-64.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > tiles.c <<'C'
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#ifdef BARRIER
#define WRITTEN(data) asm volatile("" : : "r"(data) : "memory")
#else
#define WRITTEN(data)
#endif

typedef struct { uint8_t palette, start, reserved[14]; uint16_t row_bytes[16]; uint8_t rows[16]; } Configuration;

__attribute__((noinline)) void configure(void) {
  Configuration whole = {.palette = 1};
  for (int i = 0; i < 8; ++i) whole.row_bytes[i] = 64, whole.rows[i] = 16;
  WRITTEN(&whole);
  _tile_loadconfig(&whole);
}

__attribute__((noinline)) void load(void) {
  uint8_t tile[1024];
  memset(tile, 7, sizeof tile);
  WRITTEN(tile);
  _tile_loadd(0, tile, 64);
}
C
gcc --version | head -n 1
# Instructions that write to the stack in a function: stores, and what a call of memset or rep stos stands for.
stores() { # $1: program, $2: function
  objdump --disassemble="$2" --no-show-raw-insn "$1" | grep -cE '(mov[a-z0-9]*|vmov[a-z0-9]*) +[%$][^(]*,[-x0-9a-f]*\(%(rsp|rbp|rax|rdi)|stos|memset' || true
}
for barrier in "" -DBARRIER; do
  gcc -c -O2 -mamx-tile $barrier tiles.c -o "tiles$barrier"
  echo "with ${barrier:-no barrier}: configure has $(stores "tiles$barrier" configure) stores, load has $(stores "tiles$barrier" load)"
done
[ "$(stores tiles configure)" -lt "$(stores tiles-DBARRIER configure)" ] && [ "$(stores tiles load)" -lt "$(stores tiles-DBARRIER load)" ]
