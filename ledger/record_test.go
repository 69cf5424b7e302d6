package ledger

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func TestParseName(t *testing.T) {
	tests := []struct {
		name      string
		wantStamp int64
		wantOK    bool
	}{
		{"00000000000000000001-0a1b2c3d", 1, true},
		{"09223372036854775807-00000000", math.MaxInt64, true},
		{"00000000000000000000-0a1b2c3d", 0, false},
		{"09223372036854775808-0a1b2c3d", 0, false},
		{"99999999999999999999-0a1b2c3d", 0, false},
		{"+0000000000000000001-0a1b2c3d", 0, false},
		{"0000000000000000001-0a1b2c3d", 0, false},
		{"00000000000000000001-0A1B2C3D", 0, false},
		{"00000000000000000001-0a1b2c3", 0, false},
		{"00000000000000000001-0a1b2c3d.tmp", 0, false},
		{"00000000000000000001", 0, false},
		{"-00000000000000000001-0a1b2c3", 0, false},
		{"", 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			stamp, ok := parseName(tt.name)
			if stamp != tt.wantStamp && tt.wantOK || ok != tt.wantOK {
				t.Errorf("parseName: got %d, %v, want %d, %v", stamp, ok, tt.wantStamp, tt.wantOK)
			}
		})
	}
}

func TestNamesSortByStamp(t *testing.T) {
	var names []string
	for _, stamp := range []int64{1, 9, 10, 99, 1e9, 1e18, epoch.UnixNano(), math.MaxInt64} {
		name := recordName(stamp, []byte(fmt.Sprint(stamp)))
		if got, ok := parseName(name); got != stamp || !ok {
			t.Errorf("parseName(%q): got %d, %v, want %d", name, got, ok, stamp)
		}
		names = append(names, name)
	}
	if !slices.IsSorted(names) {
		t.Errorf("got %q, want them sorted", names)
	}
}

func TestVerdictsPathStaysInItsRepository(t *testing.T) {
	tests := []struct {
		repo    oci.Repository
		want    string
		wantErr error
	}{
		{nginx, "/tidewaiter/ledger/verdicts/docker.io/library/nginx/_v", nil},
		{oci.Repository{Path: "apps/web"}, "/tidewaiter/ledger/verdicts/apps/web/_v", nil},
		{oci.Repository{Upstream: "registry.example:5000", Path: "a__b/c"}, "/tidewaiter/ledger/verdicts/registry.example_5000/a__b/c/_v", nil},
		{oci.Repository{}, "", oci.ErrNameInvalid},
		{oci.Repository{Path: "../../../etc"}, "", oci.ErrNameInvalid},
		{oci.Repository{Path: "apps/_v"}, "", oci.ErrNameInvalid},
		{oci.Repository{Upstream: "docker.io"}, "", oci.ErrNameInvalid},
		{oci.Repository{Path: strings.Repeat("a", 256)}, "", oci.ErrNameInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.repo.String(), func(t *testing.T) {
			got, err := verdictsPath(tt.repo)
			if got != tt.want || !errors.Is(err, tt.wantErr) {
				t.Errorf("got %q, %v, want %q, %v", got, err, tt.want, tt.wantErr)
			}
		})
	}
}

func compress(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	if _, err := zw.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDecodeRefuses(t *testing.T) {
	small := []byte(`{"decision":"allow"}`)
	for name, compressed := range map[string][]byte{
		"nothing":                  nil,
		"what is not compressed":   small,
		"what breaks off":          compress(t, small)[:20],
		"a bomb":                   compress(t, make([]byte, 1<<20)),
		"an unknown field":         compress(t, []byte(`{"decision":"allow","unless":"tuesday"}`)),
		"an unknown decision":      compress(t, []byte(`{"decision":"perhaps"}`)),
		"two values":               compress(t, []byte(`{"decision":"allow"}{}`)),
		"another value":            compress(t, []byte(`"allow"`)),
		"an unfinished value":      compress(t, []byte(`{"decision":"allow"`)),
		"something after the end":  append(compress(t, small), "more"...),
		"an empty value of nought": compress(t, nil),
	} {
		t.Run(name, func(t *testing.T) {
			var v gate.Verdict
			if err := decode(compressed, 1000, &v); err == nil {
				t.Errorf("got %+v and no error", v)
			}
		})
	}
}

func TestARecordTooLargeToReadIsNotWritten(t *testing.T) {
	s := inMemory()
	l := openLedger(t, s, &clock{})
	l.limits.inventory = bounds{storedBytes: 1 << 20, plainBytes: 100}
	if err := l.RecordInventory(t.Context(), inventory("a")); !errors.Is(err, oci.ErrTooLarge) {
		t.Errorf("RecordInventory: got %v, want oci.ErrTooLarge", err)
	}
	l.limits.verdict = bounds{storedBytes: 100, plainBytes: 1 << 20}
	if err := l.RecordVerdict(t.Context(), admission(candidate(nginx, "a"), "k")); !errors.Is(err, oci.ErrTooLarge) {
		t.Errorf("RecordVerdict: got %v, want oci.ErrTooLarge", err)
	}
	if got := s.called()["PutContent"]; got != 0 {
		t.Errorf("got %d writes, want none", got)
	}
}

// FuzzRecord reads hostile bytes where a verdict should be, once as anybody can put them there and once as if they were sealed.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte(`{"decision":"allow"}`))
	f.Add(compress(f, []byte(`{"decision":"allow","digest":"sha256:00"}`)))
	f.Add(compress(f, []byte(`{"decision":"allow","repository":{"Upstream":"docker.io","Path":"library/nginx"}}`)))
	dir, err := verdictsPath(nginx)
	if err != nil {
		f.Fatal(err)
	}
	at := path.Join(dir, recordName(1, nil))
	f.Fuzz(func(t *testing.T, content []byte) {
		s := inMemory()
		l := openLedger(t, s, &clock{})
		for name, content := range map[string][]byte{"unsealed": content, "sealed": l.key.Seal(at, content)} {
			s.put(t, at, content)
			v, err := l.verdict(t.Context(), at)
			if err != nil && (!isBroken(err) || v.Allowed()) {
				t.Fatalf("%s: got %v, %v, want a denial and errBroken", name, v.Decision, err)
			}
			if err == nil && (name == "unsealed" || check(v) != nil) {
				t.Fatalf("%s: believed: %+v", name, v)
			}
		}
	})
}

func FuzzParseName(f *testing.F) {
	f.Add(recordName(1, nil))
	f.Add("-0000000000000000001-00000000")
	f.Fuzz(func(t *testing.T, name string) {
		stamp, ok := parseName(name)
		if ok && (stamp <= 0 || !strings.HasPrefix(name, fmt.Sprintf("%0*d-", stampDigits, stamp)) || len(name) != len(recordName(1, nil))) {
			t.Fatalf("parseName(%q): got %d", name, stamp)
		}
	})
}
