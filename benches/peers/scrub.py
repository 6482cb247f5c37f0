#!/usr/bin/env python3
"""The scrubber beside Microsoft Presidio and scrubadub, on the same corpus, in one run.

    python3 benches/peers/scrub.py [--seed 7] [--records 20000] [--slow-records 3000]

Makes its own virtual environment below target/peers (Faker, presidio-analyzer,
scrubadub from PyPI), the corpus with scrub_corpus.py, runs
`cargo run --release -p tidegate --example scrub` on it, and prints one table.

Presidio runs with its pattern recognisers (all of the English set that need no
language model) over a blank English tokenizer: models are not on PyPI, and none
of our classes needs one but names in prose, which are in no class. scrubadub
runs with its default detectors. Both see the first --slow-records records only,
for time; every rate is per byte of what was read. All sides are judged by one
rule: a label is found when findings of its class cover 90 % of it, a finding is
right when half of it lies in labels of its class. Findings of classes that we
do not label (URLs, dates, bank numbers, …) are not held against them, and a
class that a peer has no recogniser for is shown as "-" and left out of its sum.
"""

import argparse
import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
WORK = os.path.join(ROOT, "target", "peers")
NEEDED = ["faker==40.63.0", "presidio-analyzer==2.2.366", "scrubadub==2.0.1"]
KINDS = ["secret", "email", "card", "sid", "user", "ip", "mac", "phone", "host", "gps"]


def enter_venv():
    """Runs this script again inside of its environment, made at first use."""
    python = os.path.join(WORK, "venv", "bin", "python")
    if os.path.realpath(sys.prefix) == os.path.realpath(os.path.join(WORK, "venv")):
        return
    mark = os.path.join(WORK, "venv", "made")
    if not os.path.exists(mark):
        print("making the environment of the peers (once) …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", os.path.join(WORK, "venv")], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *NEEDED], check=True)
        open(mark, "w").close()
    os.execv(python, [python, os.path.abspath(__file__), *sys.argv[1:]])


def in_characters(record):
    """The labels in characters: the corpus has bytes."""
    raw = record["text"].encode()
    at = lambda n: len(raw[:n].decode())
    return [(at(s["start"]), at(s["end"]), s["kind"]) for s in record["spans"]]


def shared(a, b):
    return max(0, min(a[1], b[1]) - max(a[0], b[0]))


class Score:
    """Counts by class, as the example program keeps them."""

    def __init__(self):
        self.by_kind = {k: dict(labelled=0, found=0, reported=0, right=0) for k in KINDS}

    def judge(self, labels, findings):
        for s, e, kind in labels:
            row = self.by_kind[kind]
            row["labelled"] += 1
            covered = sum(shared((s, e), f) for f in findings if f[2] == kind)
            row["found"] += covered * 10 >= (e - s) * 9
        for s, e, kind in findings:
            row = self.by_kind[kind]
            row["reported"] += 1
            inside = sum(shared((s, e), l) for l in labels if l[2] == kind)
            row["right"] += inside * 2 >= e - s


def merged(findings):
    """Overlapping findings of one class as one: several recognisers may report the same."""
    out = []
    for s, e, kind in sorted(findings, key=lambda f: (f[2], f[0], f[1])):
        if out and out[-1][2] == kind and s < out[-1][1]:
            out[-1] = (out[-1][0], max(e, out[-1][1]), kind)
        else:
            out.append((s, e, kind))
    return out


def run(name, find, records, kinds):
    score, took, size = Score(), 0.0, 0
    for r in records:
        started = time.perf_counter()
        findings = find(r["text"])
        took += time.perf_counter() - started
        size += len(r["text"].encode())
        score.judge(in_characters(r), merged(findings))
    neutral = [r["text"] for r in records if not r["spans"]]
    started = time.perf_counter()
    for text in neutral:
        find(text)
    neutral_took = time.perf_counter() - started
    return dict(name=name, scores=score.by_kind, kinds=kinds, mb_s=size / took / 1e6,
                mb_s_neutral=sum(len(t.encode()) for t in neutral) / neutral_took / 1e6)


def presidio():
    import spacy
    import tldextract
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine

    # its list of top-level domains comes with the package; asking the network for a newer one would only cost time
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=())

    class Blank(NlpEngine):
        """A tokenizer without a model."""

        def __init__(self):
            self.nlp = spacy.blank("en")

        def load(self):
            pass

        def is_loaded(self):
            return True

        def process_text(self, text, language):
            doc = self.nlp(text)
            return NlpArtifacts([], doc, [t.idx for t in doc], [t.text for t in doc], self, language)

        def process_batch(self, texts, language, batch_size=1, n_process=1, **_):
            for text in texts:
                yield text, self.process_text(text, language)

        def is_stopword(self, word, language):
            return word in self.nlp.Defaults.stop_words

        def is_punct(self, word, language):
            return not any(c.isalnum() for c in word)

        def get_supported_entities(self):
            return []

        def get_supported_languages(self):
            return ["en"]

    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    registry.recognizers = [r for r in registry.recognizers if "spacy" not in r.name.lower()]
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=Blank(), supported_languages=["en"])
    names = {"EMAIL_ADDRESS": "email", "CREDIT_CARD": "card", "IP_ADDRESS": "ip", "PHONE_NUMBER": "phone", "MAC_ADDRESS": "mac"}
    have = set(analyzer.get_supported_entities("en"))
    names = {k: v for k, v in names.items() if k in have}
    find = lambda text: [(r.start, r.end, names[r.entity_type]) for r in analyzer.analyze(text, "en") if r.entity_type in names]
    return find, sorted(set(names.values()))


def scrubadub_():
    import scrubadub

    scrubber = scrubadub.Scrubber()
    names = {"email": "email", "credit_card": "card", "phone": "phone", "credential": "secret"}
    find = lambda text: [(f.beg, f.end, names[f.type]) for f in scrubber.iter_filth(text) if f.type in names]
    return find, sorted(set(names.values()))


def ours(corpus):
    args = ["cargo", "run", "-q", "--release", "-p", "tidegate", "--example", "scrub", "--", corpus, "--json"]
    out = subprocess.run(args, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return json.loads(out) | dict(name="tidegate", kinds=KINDS)


def share(part, whole):
    return f"{part / whole:.3f}" if whole else "1.000"


def table(sides):
    print("| class | " + " | ".join(f"{s['name']} recall / precision" for s in sides) + " |")
    print("|---|" + "---|" * len(sides))
    for kind in [*KINDS, "all it knows"]:
        row = []
        for side in sides:
            known = [kind] if kind in side["kinds"] else side["kinds"] if kind not in KINDS else []
            rows = [side["scores"].get(k, dict(labelled=0, found=0, reported=0, right=0)) for k in known]
            total = lambda key: sum(r[key] for r in rows)
            row.append(f"{share(total('found'), total('labelled'))} / {share(total('right'), total('reported'))}" if known else "-")
        print(f"| {kind} | " + " | ".join(row) + " |")
    print("| MB/s, whole corpus | " + " | ".join(f"{s['mb_s']:.3g}" for s in sides) + " |")
    print("| MB/s, nothing to find | " + " | ".join(f"{s['mb_s_neutral']:.3g}" for s in sides) + " |")
    print(f"| MB/s, plain log text | {sides[0]['mb_s_plain']:.3g} |" + " - |" * (len(sides) - 1))
    print("| we are faster by | 1 | " + " | ".join(f"{sides[0]['mb_s'] / s['mb_s']:.0f} times" for s in sides[1:]) + " |")


def main():
    enter_venv()
    args = argparse.ArgumentParser(description="The scrubber beside Presidio and scrubadub.")
    args.add_argument("--seed", type=int, default=7)
    args.add_argument("--records", type=int, default=20000)
    args.add_argument("--slow-records", type=int, default=3000)
    args = args.parse_args()
    sys.path.insert(0, HERE)
    import scrub_corpus

    records = list(scrub_corpus.records(args.seed, args.records))
    corpus = os.path.join(WORK, f"corpus-{args.seed}.jsonl")
    with open(corpus, "w", encoding="utf-8", newline="\n") as out:
        out.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    few = records[: args.slow_records]
    sides = [ours(corpus)]
    for name, make in [("presidio", presidio), ("scrubadub", scrubadub_)]:
        find, kinds = make()
        sides.append(run(name, find, few, kinds))
    print(f"seed {args.seed}, {args.records} records, {len(few)} for the peers; {', '.join(NEEDED)}\n")
    table(sides)


if __name__ == "__main__":
    main()
