package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func TestPrintable(t *testing.T) {
	for law, tt := range map[string]struct{ text, want string }{
		"what people write stays":              {"zażółć 漢字 1:2.36-9+deb12u9", "zażółć 漢字 1:2.36-9+deb12u9"},
		"escape sequences do nothing":          {"a\x1b[2Jb", "a\uFFFD[2Jb"},
		"nor those of one character":           {"a\u009b2Jb", "a\uFFFD2Jb"},
		"nor those that are not UTF-8":         {"a\x9b2Jb", "a\uFFFD2Jb"},
		"nothing is written over":              {"DENY\rALLOW\b", "DENY\uFFFDALLOW\uFFFD"},
		"no line or column is added":           {"a\nb\tc\vd", "a\uFFFDb\uFFFDc\uFFFDd"},
		"nothing is shown in another order":    {"a\u202eb\u2066c\u200fd", "a\uFFFDb\uFFFDc\uFFFDd"},
		"nothing is there that cannot be seen": {"a\u200bb\u00a0c\x7f", "a\uFFFDb\uFFFDc\uFFFD"},
		"nothing is endless":                   {strings.Repeat("é", maxPrintableRunes+1), strings.Repeat("é", maxPrintableRunes) + "…"},
	} {
		if got := printable(tt.text); got != tt.want {
			t.Errorf("%s: got %q, want %q", law, got, tt.want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("name")
	f.Add("\x1b]0;title\a\u202e\xff")
	f.Fuzz(func(t *testing.T, text string) {
		got := printable(text)
		if strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) || utf8.RuneCountInString(got) > maxPrintableRunes+1 {
			t.Errorf("%q came out as %q", text, got)
		}
		if again := printable(got); utf8.RuneCountInString(got) <= maxPrintableRunes && again != got {
			t.Errorf("%q came out as %q and then as %q", text, got, again)
		}
	})
}

// hostile is a text as somebody might call a package who wants the operator's terminal to lie.
const hostile = "x\x1b[2K\rALLOW\u202e\n"

// everywhere is a verdict with a hostile text wherever an image, a signer or an upstream could have put one.
func everywhere() gate.Verdict {
	f := gate.Finding{ID: hostile, Path: hostile, FixedVersion: hostile, Title: hostile, Package: gate.Package{Name: hostile, Version: hostile}}
	reasons := []gate.Reason{{Rule: gate.Rule(hostile), Message: hostile, Waiver: hostile}}
	return gate.Verdict{
		Repository: oci.Repository{Upstream: hostile, Path: hostile}, Digest: oci.Digest(hostile), Policy: hostile, File: hostile, Line: 1,
		Reasons: reasons, Warnings: reasons, Waived: reasons, JudgedAt: time.Unix(0, 0).UTC(), Until: time.Unix(0, 0).UTC(),
		Signatures: []gate.Signature{{Authority: hostile, Format: hostile, Signer: hostile}},
		Rejections: []gate.Rejection{{Manifest: oci.Digest(hostile), Why: hostile}},
		Findings:   []gate.Finding{f},
	}
}

func TestNothingAnImageSaysReachesTheTerminal(t *testing.T) {
	quiet := everywhere()
	var verdict, inventory, harmless bytes.Buffer
	if err := printVerdicts(&verdict, []gate.Verdict{quiet, quiet}); err != nil {
		t.Fatal(err)
	}
	err := printInventory(&inventory, imageInventory{
		Repository: hostile, Digest: oci.Digest(hostile),
		Inventory: gate.Inventory{
			OS:       gate.OS{ID: hostile, Version: hostile},
			Packages: []gate.Found{{Package: gate.Package{Type: hostile, Name: hostile, Version: hostile}, Path: hostile}},
			Gaps:     []gate.Gap{{Kind: gate.GapKind(hostile), Why: hostile, Path: hostile}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := printScenes(&harmless, []played{{Image: hostile, Pulled: hostile, Why: hostile}}); err != nil {
		t.Fatal(err)
	}
	for name, out := range map[string]string{"verdicts": verdict.String(), "an inventory": inventory.String(), "the demo": harmless.String()} {
		var acted []rune
		for _, r := range out {
			if r != '\n' && !unicode.IsPrint(r) {
				acted = append(acted, r)
			}
		}
		if len(acted) > 0 || strings.Count(out, "x\uFFFD[2K") < 3 {
			t.Errorf("%s: a terminal would act on %q of\n%q", name, acted, out)
		}
	}
}

func TestJSONSaysTheSameWithoutATerminalActingOnIt(t *testing.T) {
	want := []string{"zażółć", "a\x1b[2J\r\n\t\u009b\x7f", "\u202e\u2066\u00a0", "\U000e0041 and \U0001f600"}
	var out bytes.Buffer
	inv := &invocation{stdout: &out, output: "json"}
	if err := inv.print(want, nil); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsFunc(out.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		t.Errorf("a terminal would act on %q", out.String())
	}
	var got []string
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Error(diff)
	}
}

func TestAnErrorIsPrintable(t *testing.T) {
	if diff := cmp.Diff(printableLines("a\x1b[0m\nb\rc"), "a\uFFFD[0m\nb\uFFFDc"); diff != "" {
		t.Error(diff)
	}
}
