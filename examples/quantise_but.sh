#!/bin/sh
# Quantise a tagged model but for one module, and show by module what became of it: quantise_but.sh TAGGED SCOPE RESULT
set -eu
QUANTISE='
import json, sys
from onnxruntime.quantization import QuantType, quantize_dynamic
quantize_dynamic(*sys.argv[1:], weight_type=QuantType.QUInt8, **json.load(sys.stdin))'
mx select "$1" --scope "$2" --format ort-quant | python -c "$QUANTISE" "$1" "$3"
mx tag "$3" --from "$1" -o "$3"
mx compare "$1" "$3" || test $? = 1
