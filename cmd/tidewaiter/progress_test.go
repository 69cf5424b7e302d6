package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// newTestProgress returns a bar on a buffer, whose clock stands at what is returned with it.
func newTestProgress() (*progress, *bytes.Buffer, *time.Time) {
	var out bytes.Buffer
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	return &progress{out: &out, now: func() time.Time { return now }}, &out, &now
}

func TestProgress(t *testing.T) {
	p, out, now := newTestProgress()
	drawn := func() []string {
		defer out.Reset()
		var lines []string
		for line := range strings.SplitSeq(out.String(), eraseLine) {
			if line != "" {
				lines = append(lines, line)
			}
		}
		return lines
	}
	p.begin(10 << 20)
	if diff := cmp.Diff(drawn(), []string{"fetching 1 blob [..............................] 0.0 MiB of 10.0 MiB"}); diff != "" {
		t.Errorf("at the beginning:\n%s", diff)
	}
	for range 50 {
		p.add(1 << 10)
	}
	if got := drawn(); got != nil {
		t.Errorf("within a moment it draws %q", got)
	}
	*now = now.Add(redrawEvery)
	p.add(5<<20 - 50<<10)
	if diff := cmp.Diff(drawn(), []string{"fetching 1 blob [###############...............] 5.0 MiB of 10.0 MiB"}); diff != "" {
		t.Errorf("half way:\n%s", diff)
	}
	if _, err := p.Write([]byte("a word\n")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(drawn(), []string{"a word\n"}); diff != "" {
		t.Errorf("others have to say:\n%s", diff)
	}
	*now = now.Add(redrawEvery)
	p.begin(30 << 20)
	p.abandon(30 << 20)
	p.add(5 << 20)
	lines := drawn()
	if got, want := lines[len(lines)-1], "fetching 2 blobs [##############################] 10.0 MiB of 10.0 MiB"; got != want {
		t.Errorf("at the end: got %q, want %q", got, want)
	}
	for _, line := range lines {
		if len(line) > 80 {
			t.Errorf("it does not fit a terminal: %q", line)
		}
	}
	p.end()
	if got := out.String(); got != eraseLine {
		t.Errorf("it leaves %q behind", got)
	}
	p.begin(0)
	p.end()
}

func TestProgressIsForTerminals(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for name, w := range map[string]io.Writer{"a buffer": &bytes.Buffer{}, "a file": f} {
		if newProgress(w) != nil {
			t.Errorf("%s has a bar", name)
		}
	}
	var none *progress
	none.end()
}

// What is told of is what came, whether or not all of it did.
func TestShownBlobs(t *testing.T) {
	l := newLab(t, lenient)
	desc := l.upstream.PutBlob("app", ocitest.Random(3<<20, 1))
	upstreams, err := upstream.New([]upstream.Config{{Host: "registry.demo", URL: l.upstream.URL(), UnsafePrivateAddresses: true}}, upstream.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer upstreams.Close()
	bar, _, _ := newTestProgress()
	repo := oci.Repository{Upstream: "registry.demo", Path: "app"}
	whole, err := shown{upstreams, bar}.Blob(t.Context(), repo, desc)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, oci.NewVerifier(whole, desc)); err != nil || n != desc.Size || whole.Close() != nil {
		t.Fatalf("got %d bytes, %v", n, err)
	}
	part, err := shown{upstreams, bar}.Blob(t.Context(), repo, desc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, part, 1<<20); err != nil || part.Close() != nil {
		t.Fatal(err)
	}
	if bar.blobs != 2 || bar.received != bar.total || bar.total != 4<<20 {
		t.Errorf("it tells of %d blobs, %d of %d bytes", bar.blobs, bar.received, bar.total)
	}
	if _, err := (shown{upstreams, bar}).Blob(t.Context(), repo, oci.Descriptor{Digest: oci.FromBytes([]byte("none")), Size: 4}); err == nil || bar.blobs != 2 {
		t.Errorf("what is not there is told of: %v", err)
	}
}
