package policy

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// addFiles makes every YAML file that pattern names a seed.
func addFiles(f *testing.F, patterns ...string) {
	f.Helper()
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatal("no files", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
}

// checkProblems fails t unless err is problems of the file f that lie within data.
func checkProblems(t *testing.T, err error, data []byte) {
	t.Helper()
	problems, ok := errors.AsType[*Problems](err)
	if !ok || len(problems.List) == 0 {
		t.Fatalf("got %v, want problems", err)
	}
	// A line ends also at a carriage return and at three characters of Unicode (YAML 1.2, section 5.4).
	last := 2 + bytes.Count(data, []byte("\n")) + bytes.Count(data, []byte("\r"))
	for _, brk := range []string{"\u0085", "\u2028", "\u2029"} {
		last += bytes.Count(data, []byte(brk))
	}
	for _, p := range problems.List {
		if p.File != "f" || p.Line < 0 || p.Line > last || p.Column < 0 || p.Message == "" {
			t.Errorf("got problem %+v in a file of %d lines", p, last)
		}
	}
}

// FuzzParse: whatever a file says, it is either refused with problems that have a place in it, or it is a set in which every policy
// has a name and can match, and every waiver is bounded.
func FuzzParse(f *testing.F) {
	addFiles(f, "testdata/problems/*.yaml", "default.yaml", "../configs/policy.yaml")
	f.Add([]byte(fullPolicy))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := Parse("f", data, testNow)
		if err != nil {
			checkProblems(t, err, data)
			return
		}
		for _, p := range set.Policies {
			if p.Name == "" || len(p.Match) == 0 || p.Line < 1 {
				t.Errorf("got policy %+v", p)
			}
		}
		for _, w := range set.Waivers {
			narrow := w.Digest != "" || len(w.Repositories) > 0
			if !narrow || w.Until.IsZero() || w.Reason == "" || w.By == "" || (w.Vulnerability == "") == (w.Rule == "") {
				t.Errorf("got waiver %+v", w)
			}
		}
		again, err := Parse("other", append([]byte("# a comment\n\n"), data...), testNow)
		if err != nil {
			return // a file that begins with a directive or a byte order mark cannot be moved down
		}
		if got, want := again.Revision+again.WaiverRevision, set.Revision+set.WaiverRevision; got != want {
			t.Errorf("after a comment: got revisions %s, want %s", got, want)
		}
	})
}

// FuzzParseTrust: whatever a file says, it is either refused with problems that have a place in it, or each authority in it has a
// name and keys of its own that count at some time.
func FuzzParseTrust(f *testing.F) {
	addFiles(f, "testdata/trust/*.yaml", "../configs/trust.yaml")
	keys := testKeys(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		roots, _, err := parseTrust([]source{{"f", data}}, keys.read)
		if err != nil {
			checkProblems(t, err, data)
			return
		}
		seen := map[string]bool{}
		for _, a := range roots.Authorities {
			if a.Name == "" || len(a.Keys) == 0 || seen[a.Name] {
				t.Errorf("got authority %+v", a)
			}
			seen[a.Name] = true
			for _, k := range a.Keys {
				if k.Public == nil || seen[k.Fingerprint] || !k.NotAfter.IsZero() && !k.NotBefore.Before(k.NotAfter) {
					t.Errorf("got key %+v", k)
				}
				seen[k.Fingerprint] = true
			}
		}
	})
}

// FuzzParseKey: a key that is accepted has the fingerprint of its own PKIX form.
func FuzzParseKey(f *testing.F) {
	for _, encoded := range testKeys(f) {
		f.Add(encoded)
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		k, err := parseKey(encoded)
		if (err == nil) != (k.Public != nil) || (err == nil) != (len(k.Fingerprint) == 64) {
			t.Errorf("got %+v, %v", k, err)
		}
	})
}
