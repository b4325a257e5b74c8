#!/bin/sh
# Trace a model, export it, tag the export and cut one layer out of it.
set -eu
MODEL=$1
mx trace "$MODEL" -o bert.trace.json
mx export "$MODEL" | mx tag --trace bert.trace.json | tee bert.tagged.onnx | mx filter --scope 'encoder.layer.0' > layer0.onnx
mx tree bert.tagged.onnx
