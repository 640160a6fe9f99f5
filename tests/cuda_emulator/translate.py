"""Translates a preprocessed CUDA source to C++ for device.h: launches, inline PTX, shared memory.

usage: translate.py INPUT OUTPUT
"""

import re
import sys


def matching(text, start, opening, closing):
    """Index behind the bracket that closes the one at `start`."""
    depth = 0
    i = start
    while i < len(text):
        if text[i] == '"':
            i = text.index('"', i + 1)
        elif text[i] == opening:
            depth += 1
        elif text[i] == closing:
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    raise ValueError("no bracket closes " + text[start : start + 60])


def kernel_before(text, end):
    """Where the expression that names the kernel, which ends at `end`, begins."""
    i = end
    while text[i - 1].isspace():
        i -= 1
    if text[i - 1] == ">":
        depth = 0
        while True:
            i -= 1
            if text[i] == ">":
                depth += 1
            elif text[i] == "<":
                depth -= 1
                if depth == 0:
                    break
        while text[i - 1].isspace():
            i -= 1
    while re.match(r"[\w:]", text[i - 1]):
        i -= 1
    return i


def translate_launches(text):
    """kernel<<<grid, block, bytes, stream>>>(arguments) -> Launch(grid, ..., call, arguments)"""
    while (at := text.find("<<<")) >= 0:
        begin = kernel_before(text, at)
        kernel = text[begin:at].strip()
        end_of_shape = text.index(">>>", at)
        shape = text[at + 3 : end_of_shape]
        opening = text.index("(", end_of_shape)
        closing = matching(text, opening, "(", ")")
        arguments = text[opening + 1 : closing - 1].strip()
        comma = ", " if arguments else ""
        run = f"[=](auto... emulated) {{ {kernel}(emulated...); }}"
        call = f"::cuda_emulator::Launch({shape}, {run}{comma}{arguments})"
        text = text[:begin] + call + text[closing:]
    return text


def operands(text):
    """The expressions in `"=r"(x), "r"(y)`."""
    found = []
    i = 0
    while (at := text.find('"', i)) >= 0:
        opening = text.index("(", text.index('"', at + 1))
        i = matching(text, opening, "(", ")")
        found.append(text[opening + 1 : i - 1])
    return found


def translate_assembly(text):
    """asm("opcode ...": outputs : inputs) -> ptx::opcode(outputs, inputs)

    A block in braces, whose last instruction has a predicate, is called opcode_if.
    """
    pattern = re.compile(r"\basm\b\s*(volatile\b)?\s*\(")
    position = 0
    while match := pattern.search(text, position):
        end = matching(text, match.end() - 1, "(", ")")
        body = text[match.end() : end - 1]
        strings = re.match(r'\s*((?:"[^"]*"\s*)+)', body)
        if strings is None:
            position = end
            continue
        code = "".join(re.findall(r'"([^"]*)"', strings.group(1)))
        guarded = re.fullmatch(r"\{.*;\s*@\w+\s+(\S+)[^;]*;\s*\}", code)
        opcode = guarded.group(1) + "_if" if guarded else code.split()[0].rstrip(";")
        opcode = re.sub(r"[^\w]", "_", opcode)
        sections = body[strings.end() :].split(":")
        # A lone :: is an empty list of outputs; names of namespaces do not occur in operands.
        values = [value for section in sections[1:3] for value in operands(section)]
        call = f"::cuda_emulator::ptx::{opcode}({', '.join(values)})"
        text = text[: match.start()] + call + text[end:]
        position = match.start() + len(call)
    return text


def translate_shared(text):
    text = re.sub(
        r"extern\s+__emulated_shared__\s*(?:__attribute__\s*\(\([^;]*?\)\)\s*)?([\w:]+)\s+(\w+)\s*\[\s*\]\s*;",
        r"\1* const \2 = reinterpret_cast<\1*>(::cuda_emulator::DynamicShared());",
        text,
    )
    return text.replace("__emulated_shared__", "static thread_local")


def main():
    source = open(sys.argv[1]).read()
    source = translate_shared(translate_assembly(translate_launches(source)))
    open(sys.argv[2], "w").write(source)


main()
