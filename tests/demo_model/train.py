"""Trains a demo model and writes it as GGUF. Needs PyTorch; README.md has the exact commands.

What it leaves in --out: NAME.gguf, NAME.npz (the same weights) and NAME.json (hashes of corpus and
scripts, settings, losses, accuracy on the held-out split).
"""

import argparse
import hashlib
import importlib
import json
import os
import sys
import time

# Before CUDA starts: products whose order of summation is always the same.
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

import numpy  # noqa: E402
import torch  # noqa: E402
from torch.nn import functional  # noqa: E402

import batches  # noqa: E402
import corpus  # noqa: E402
import export  # noqa: E402
import network  # noqa: E402
import shapes  # noqa: E402
import splits  # noqa: E402
import tasks  # noqa: E402
import tokenizer  # noqa: E402

SCRIPTS = ['batches.py', 'export.py', 'formats.py', 'network.py', 'shapes.py', 'train.py']
GIVEN_WEIGHT = 0.1    # of the loss on what a user says
BALANCE_WEIGHT = 0.01
CHECKPOINT_EVERY = 2000  # steps, for what is left if time runs out
GOALS = {'addition': 0.99, 'copying': 0.98, 'sorting': 0.98, 'facts': 0.95}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument('--model', choices=sorted(shapes.SHAPES), required=True)
    parser.add_argument('--out', required=True)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--rows', type=int, default=524288, help='different rows of 256 tokens')
    parser.add_argument('--batch', type=int, default=512, help='rows a step')
    parser.add_argument('--steps', type=int, default=12000)
    parser.add_argument('--learning-rate', type=float, default=2e-3)
    parser.add_argument('--minutes', type=float, default=4.0,
                        help='fewer steps if they would take longer, told in the output')
    parser.add_argument('--processes', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--rows-file', help='keep the rows here, or take them from here')
    parser.add_argument('--compile', action='store_true')
    parser.add_argument('--smoke', action='store_true', help='a minute on a CPU, to try it out')
    options = parser.parse_args()
    if options.smoke:
        options.rows, options.batch, options.steps, options.processes = 2048, 4, 20, 1
    return options


def make_rows(options):
    """The training rows, made or read."""
    path = options.rows_file
    if path and os.path.exists(path):
        return numpy.load(path)
    rows = batches.make(options.seed, splits.TRAIN, options.rows, options.processes)
    if path:
        numpy.save(path, rows)
    return rows


def loss_of(model, entries):
    """entries: (batch, positions) as batches.py has them. Mean loss, and routing's cost."""
    ids = entries & batches.ID_MASK
    learn = (entries >> batches.LEARN_SHIFT)[:, 1:]
    logits, cost = model(ids[:, :-1])
    losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction='none')
    weights = (learn == corpus.LEARNED).float() + GIVEN_WEIGHT * (learn == corpus.GIVEN).float()
    weights = weights.flatten()
    return (losses * weights).sum() / weights.sum(), cost


def rate_at(step, steps, peak):
    """Up for a hundredth, level, down to a hundredth of the peak over the last 60 %."""
    warm = max(1, steps // 100)
    if step < warm:
        return peak * (step + 1) / warm
    left = (steps - step) / (0.6 * steps)
    return peak * max(0.01, min(1.0, left))


def make_optimizer(model, options):
    """AdamW; vectors and the embedding do not decay."""
    decayed, others = [], []
    for name, weight in model.named_parameters():
        (decayed if weight.dim() > 1 and 'token_embd' not in name else others).append(weight)
    fused = {'fused': True} if next(model.parameters()).is_cuda else {}
    return torch.optim.AdamW([{'params': decayed, 'weight_decay': 0.1},
                              {'params': others, 'weight_decay': 0.0}],
                             lr=options.learning_rate, betas=(0.9, 0.98), eps=1e-9, **fused)


class Schedule:
    """How many steps there are, cut once after a few if they would take too long."""

    MEASURED = (100, 300)

    def __init__(self, options):
        self.steps = options.steps
        self._seconds = options.minutes * 60
        self._begin = time.monotonic()
        self._mark = None

    def after(self, step, device):
        first, last = self.MEASURED
        if step not in self.MEASURED:
            return
        if device.type == 'cuda':
            torch.cuda.synchronize()
        now = time.monotonic()
        if step == first:
            self._mark = now
            return
        a_step = (now - self._mark) / (last - first)
        possible = last + int((self._begin + self._seconds - now) / a_step)
        print(f'{a_step * 1e3:.1f} ms a step; {possible} steps are possible', flush=True)
        if possible < self.steps:
            self.steps = possible
            print(f'cut to {possible} steps', flush=True)


def save_weights(options, arrays):
    """As NAME.npz."""
    os.makedirs(options.out, exist_ok=True)
    numpy.savez_compressed(os.path.join(options.out, f'{options.model}.npz'), name=options.model,
                           **arrays)


def train(model, rows, options, device):
    """Gives [(step, loss)] and how many steps there were."""
    optimizer = make_optimizer(model, options)
    run = model
    if options.compile:
        # What cannot be compiled runs as it is.
        importlib.import_module('torch._dynamo').config.suppress_errors = True
        run = torch.compile(model)
    data = torch.from_numpy(rows.astype(numpy.int32))
    data = data.to(device)
    order = torch.Generator().manual_seed(options.seed)
    permutation, at = torch.randperm(len(data), generator=order), 0
    schedule, losses, step = Schedule(options), [], 0
    while step < schedule.steps:
        if at + options.batch > len(data):
            permutation, at = torch.randperm(len(data), generator=order), 0
        chosen = permutation[at:at + options.batch].to(device, non_blocking=True)
        at += options.batch
        rate = rate_at(step, schedule.steps, options.learning_rate)
        for group in optimizer.param_groups:
            group['lr'] = rate
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == 'cuda'):
            loss, cost = loss_of(run, data[chosen].long())
        optimizer.zero_grad(set_to_none=True)
        (loss + BALANCE_WEIGHT * cost).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        schedule.after(step, device)
        if step % CHECKPOINT_EVERY == 0:
            save_weights(options, model.arrays())
        if step % 200 == 0 or step == schedule.steps or (options.smoke and step % 10 == 0):
            losses.append((step, round(loss.item(), 5)))
            print(f'step {step}/{schedule.steps} loss {loss.item():.4f} '
                  f'routing {float(cost):.3f} rate {rate:.2e}', flush=True)
    return losses, step


@torch.no_grad()
def share_right(model, words, kind, count, device):
    """How many of `count` held-out tasks the likeliest tokens answer right. Where each token of the
    right answer is the likeliest after those before it, so is the answer, so one pass will do."""
    right = 0
    found = corpus.held_out_tasks(kind, count)
    for begin in range(0, count, 256):
        rows = [batches.entries(words, corpus.chat_pieces(task.question, task.answer))
                for task in found[begin:begin + 256]]
        width = max(map(len, rows))
        entries = torch.zeros(len(rows), width, dtype=torch.long)
        for index, row in enumerate(rows):
            entries[index, :len(row)] = torch.tensor(row)
        entries = entries.to(device)
        ids = entries & batches.ID_MASK
        logits, _ = model(ids[:, :-1])
        asked = (entries >> batches.LEARN_SHIFT)[:, 1:] == corpus.LEARNED
        right += ((logits.argmax(-1) == ids[:, 1:]) | ~asked).all(dim=1).sum().item()
    return right / count


@torch.no_grad()
def story_perplexity(model, words, count, device):
    total, tokens = 0.0, 0
    for story in corpus.held_out_stories(count):
        ids = torch.tensor([words.encode(story.text + corpus.END_OF_TEXT)], device=device)
        logits, _ = model(ids[:, :-1])
        total += functional.cross_entropy(logits[0], ids[0, 1:], reduction='sum').item()
        tokens += ids.shape[1] - 1
    return float(numpy.exp(total / tokens))


def evaluate(model, words, device, count):
    """In float32 with the weights as the file has them."""
    accuracy = {kind: share_right(model, words, kind, count, device) for kind in tasks.MAKERS}
    for kind, share in accuracy.items():
        goal = GOALS.get(kind)
        said = '' if goal is None else f' (goal {goal:.2f}{"" if share >= goal else ": MISSED"})'
        print(f'held-out {kind}: {share:.4f}{said}', flush=True)
    perplexity = story_perplexity(model, words, max(4, count // 10), device)
    print(f'held-out stories: perplexity {perplexity:.4f}', flush=True)
    return accuracy, perplexity


def file_hash(path):
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()


def save(model, words, options, report):
    """The three files."""
    stem = os.path.join(options.out, options.model)
    arrays = model.arrays()
    save_weights(options, arrays)
    export.write(f'{stem}.gguf', options.model, arrays, words)
    folder = os.path.dirname(os.path.abspath(__file__))
    report['sha256'] = {**batches.source_hashes(),
                        **{name: file_hash(os.path.join(folder, name)) for name in SCRIPTS},
                        f'{options.model}.gguf': file_hash(f'{stem}.gguf')}
    with open(f'{stem}.json', 'w', encoding='utf-8') as file:
        json.dump(report, file, indent=1)
        file.write('\n')
    print(f'wrote {stem}.gguf, {os.path.getsize(f"{stem}.gguf")} bytes', flush=True)


def main():
    options = arguments()
    begin = time.monotonic()
    device = torch.device('cuda' if torch.cuda.is_available() and not options.smoke else 'cpu')
    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision('high')
    words = tokenizer.Tokenizer.load()
    rows = make_rows(options)
    print(f'{rows.shape[0]} rows of {rows.shape[1]}, sha256 {batches.sha256(rows)[:16]}, after '
          f'{time.monotonic() - begin:.0f} s; PyTorch {torch.__version__} on {device}', flush=True)

    model = network.Network(shapes.SHAPES[options.model], options.seed).to(device)
    losses, steps = train(model, rows, options, device)
    print(f'trained after {time.monotonic() - begin:.0f} s', flush=True)
    torch.set_float32_matmul_precision('highest')
    model.load_arrays(export.rounded(options.model, model.arrays()))
    accuracy, perplexity = evaluate(model, words, device, 4 if options.smoke else 1000)
    save(model, words, options, {
        'model': options.model, 'seed': options.seed, 'steps': steps, 'batch': options.batch,
        'learning_rate': options.learning_rate, 'rows': rows.shape[0],
        'rows_sha256': batches.sha256(rows), 'pytorch': torch.__version__, 'device': str(device),
        'losses': losses, 'held_out_accuracy': accuracy, 'held_out_perplexity': perplexity})
    return 0


if __name__ == '__main__':
    sys.exit(main())
