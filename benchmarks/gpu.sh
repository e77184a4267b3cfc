#!/usr/bin/env bash
# What is to be measured on one CUDA GPU, within 8 minutes after the set-up: the tests that need one, then decoding
# at the size of two real models. Every part has a time limit, and what it has measured by then is
# kept. The last line of the output is one JSON object.
#
#   bash benchmarks/gpu.sh                                      # installs what is missing first
#   INSTALL=0 PYTHON=python3 bash benchmarks/gpu.sh             # installs nothing
#   INSTALL=0 DEVICE=cpu SIZE=tiny bash benchmarks/gpu.sh       # a dry run
set -u
cd "$(dirname "$0")/.." || exit 1

DEVICE=${DEVICE:-cuda}
SIZE=${SIZE:-}                       # tiny: one small part in place of the two real sizes
PYTHON=${PYTHON:-${VIRTUAL_ENV:-.venv}/bin/python}
OUT=${OUT:-$(mktemp -d)}
[ "${INSTALL:-1}" = 0 ] || timeout 240 make install-dev || exit 1

"$PYTHON" -c "import torch; torch.zeros(1, device='$DEVICE')" || exit 1

export PYTHONPATH=$PWD:$PWD/objectives${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1
mkdir -p "$OUT"
: >"$OUT/parts.jsonl"
: >"$OUT/status.txt"

part() { # name, seconds, command: its lines of JSON are kept, however it ends
  local name=$1 limit=$2 begin=$SECONDS status
  shift 2
  echo "== $name: $*" >&2
  timeout --kill-after=5 "$limit" "$@" >"$OUT/$name.txt" 2>"$OUT/$name.err"
  status=$?
  [ $status = 0 ] || tail -n 15 "$OUT/$name.txt" "$OUT/$name.err" >&2
  grep '^{.*}$' "$OUT/$name.txt" >>"$OUT/parts.jsonl"
  echo "$name $status $((SECONDS - begin))" >>"$OUT/status.txt"
}

part tests 150 "$PYTHON" -m pytest -m gpu -q tests/test_gpu.py
decode=("$PYTHON" benchmarks/gpu.py --device "$DEVICE")
if [ "$SIZE" = tiny ]; then
  part tiny 60 "${decode[@]}" --size tiny --rows '[1, 4]' --tokens 8 --plain_tokens 4
else
  part 135m 140 "${decode[@]}" --size 135m
  part 7b 170 "${decode[@]}" --size 7b --rows '[1, 16, 64]' --tokens 32 --plain_tokens 8
fi

"$PYTHON" - "$OUT" <<'END'
import json, sys
from pathlib import Path

folder = Path(sys.argv[1])
parts = {}
for line in (folder / "status.txt").read_text().splitlines():
    name, status, seconds = line.split()
    # 124 and 137: the time limit.
    parts[name] = {"exit": int(status), "seconds": int(seconds)}
tests = (folder / "tests.txt").read_text().strip().splitlines()
lines = [json.loads(line) for line in (folder / "parts.jsonl").read_text().splitlines()]
print(json.dumps({"benchmark": "gpu", "parts": parts, "tests": tests[-1:], "decoding": lines}))
END
