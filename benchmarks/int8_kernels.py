"""How far TFLite's two sets of int8 kernels lie apart: the delegate's and the interpreter's own, on real pictures.

    python benchmarks/int8_kernels.py FILE.int8.tflite PICTURES

The whole file in both, with one and with four threads: shares of pixels of another class. Then each operator alone in
XNNPACK, on what the interpreter's own kernels computed before it: shares of its int8 numbers that differ (by one).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from mobileseg.pictures import find_pictures, iter_pictures
from mobileseg.quantization.tflite.flatbuffer import Graph

OWN, XNNPACK = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, OpResolverType.AUTO


def opened(content: bytes, kernels: Any, threads: int = 1, keep: bool = False) -> Any:
    interpreter = Interpreter(
        model_content=content,
        num_threads=threads,
        experimental_op_resolver_type=kernels,
        experimental_preserve_all_tensors=keep,
    )
    interpreter.allocate_tensors()
    return interpreter


def classes(interpreter: Any, picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(source["index"], picture[None].astype(source["dtype"]))
    interpreter.invoke()
    found: NDArray[np.int64] = interpreter.get_tensor(result["index"]).argmax(-1)
    return found


def alone(content: bytes, number: int) -> tuple[bytes, list[int]]:
    """A file of one operator, and the tensors that it reads."""
    graph = Graph(content)
    operator = graph.operators[number]
    read = [i for i in dict.fromkeys(map(int, operator.inputs)) if i >= 0 and not _has_data(graph, i)]
    graph.subgraph.operators = [operator]
    graph.subgraph.inputs, graph.subgraph.outputs = np.asarray(read, np.int32), operator.outputs
    graph.model.signatureDefs = None
    return graph.to_bytes(), read


def _has_data(graph: Graph, tensor: int) -> bool:
    data = graph.model.buffers[graph.tensor(tensor).buffer].data
    return data is not None and len(data) > 0


def by_operator(content: bytes, picture: NDArray[np.uint8]) -> dict[str, list[float]]:
    graph, own = Graph(content), opened(content, OWN, keep=True)
    classes(own, picture)
    shares: dict[str, list[float]] = defaultdict(list)
    for number, operator in enumerate(graph.operators):
        result = int(operator.outputs[0])
        if graph.tensor(result).type != graph.schema.TensorType.INT8:
            continue
        file, read = alone(content, number)
        interpreter = opened(file, XNNPACK)
        for detail, tensor in zip(interpreter.get_input_details(), read, strict=True):
            interpreter.set_tensor(detail["index"], own.get_tensor(tensor))
        interpreter.invoke()
        found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        shares[graph.kind(operator)].append(float((found != own.get_tensor(result)).mean()))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--count", type=int, default=3)
    options = parser.parse_args()
    content = options.file.read_bytes()
    one, four, own = opened(content, XNNPACK), opened(content, XNNPACK, threads=4), opened(content, OWN)
    _, height, width, _ = one.get_input_details()[0]["shape"]
    pictures = list(iter_pictures(find_pictures(options.pictures)[: options.count], (int(height), int(width))))
    for words, other in (("XNNPACK, 4 threads", four), ("the interpreter's own kernels", own)):
        differ = np.mean([(classes(one, p) != classes(other, p)).mean() for p in pictures])
        print(f"XNNPACK, 1 thread, and {words}: {differ:.4%} of pixels differ")
    print("| operator | number | mean | most |\n|---|---|---|---|")
    for kind, found in sorted(by_operator(content, pictures[0]).items(), key=lambda item: -max(item[1])):
        print(f"| {kind} | {len(found)} | {np.mean(found):.3%} | {max(found):.3%} |")


if __name__ == "__main__":
    main()
