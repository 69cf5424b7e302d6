package scan

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// shown is a file as a visit sees it.
type shown struct{ Name, Content string }

// visited returns what is shown of a layer.
func visited(t *testing.T, l *Layers, layer []byte, maxBytes int64) ([]shown, []gate.Gap) {
	t.Helper()
	var files []shown
	gaps, err := l.VisitFiles(t.Context(), descriptor(typeTar, layer), bytes.NewReader(layer), maxBytes,
		func(_ context.Context, name string, content io.Reader) error {
			all, err := io.ReadAll(content)
			files = append(files, shown{name, string(all)})
			return err
		})
	if err != nil {
		t.Fatal(err)
	}
	return files, gaps
}

func TestVisitFiles(t *testing.T) {
	l := startLayers(t, Options{Workers: 1})
	large := strings.Repeat("large ", 100_000)
	layer := tarball(t, directory("etc"), regular("etc/one", "1"), regular("etc/one", "again"), hardLink("etc/two", "etc/one"),
		regular("empty", ""), symlink("a", "etc/one"), regular(".wh.etc", "mark"), regular("below/.wh.x/y", "below"),
		regular("name\n\xff", "odd"), regular("large", large), regular("../up", "u"))
	want := []shown{
		{"etc/one", "1"}, {"etc/one", "again"}, {".wh.etc", "mark"}, {"below/.wh.x/y", "below"}, {`name\n\xff`, "odd"}, {"large", large}, {"up", "u"},
	}
	for name, content := range map[string][]byte{"plain": layer, "gzip": gzipped(t, layer), "zstd": zstded(t, layer)} {
		t.Run("shows everything with content in a layer that is "+name, func(t *testing.T) {
			got, gaps := visited(t, l, content, 1<<20)
			if diff := cmp.Diff(want, got); diff != "" || len(gaps) > 0 {
				t.Errorf("gaps %v, files (-want +got):\n%s", gaps, diff)
			}
		})
	}
	t.Run("names a file that is too large, and goes on", func(t *testing.T) {
		got, gaps := visited(t, l, layer, int64(len(large)-1))
		desc := descriptor(typeTar, layer)
		wantGaps := []gate.Gap{{
			Kind: gate.GapLimit, Layer: desc.Digest, Path: "large",
			Why: fmt.Sprintf("large has %d bytes, files of at most %d are looked into for malware", len(large), len(large)-1),
		}}
		if diff := cmp.Diff(wantGaps, gaps); diff != "" || len(got) != len(want)-1 {
			t.Errorf("%d files, gaps (-want +got):\n%s", len(got), diff)
		}
	})
	t.Run("shows what there is of a layer that breaks off, which is a gap", func(t *testing.T) {
		got, gaps := visited(t, l, layer[:len(layer)-300_000], 1<<20)
		if len(got) != 6 || got[0] != want[0] || !slices.Equal(gapKinds(gaps), []gate.GapKind{gate.GapUnreadableLayer}) {
			t.Errorf("%d files, gaps %v", len(got), gaps)
		}
	})
	t.Run("a layer that cannot be unpacked is a gap", func(t *testing.T) {
		if got, gaps := visited(t, l, []byte("BZh91AY"), 1<<20); len(got) > 0 || !slices.Equal(gapKinds(gaps), []gate.GapKind{gate.GapUnreadableLayer}) {
			t.Errorf("%d files, gaps %v", len(got), gaps)
		}
	})
	t.Run("a visit that leaves early is shown the next", func(t *testing.T) {
		var names []string
		_, err := l.VisitFiles(t.Context(), descriptor(typeTar, layer), bytes.NewReader(layer), 1<<20, func(_ context.Context, name string, _ io.Reader) error {
			names = append(names, name)
			return nil
		})
		if err != nil || len(names) != len(want) {
			t.Errorf("got %q, %v", names, err)
		}
	})
	t.Run("a visit that fails ends it", func(t *testing.T) {
		broken := errors.New("broken")
		_, err := l.VisitFiles(t.Context(), descriptor(typeTar, layer), bytes.NewReader(layer), 1<<20,
			func(context.Context, string, io.Reader) error { return broken })
		if !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("so does a layer that cannot be read, and whoever asked going away", func(t *testing.T) {
		visit := func(ctx context.Context, _ string, content io.Reader) error {
			_, err := io.Copy(io.Discard, content)
			return err
		}
		broken := errors.New("broken")
		failing := io.MultiReader(bytes.NewReader(layer[:4096]), readerFunc(func([]byte) (int, error) { return 0, broken }))
		if _, err := l.VisitFiles(t.Context(), descriptor(typeTar, layer), failing, 1<<20, visit); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		ctx, leave := context.WithCancel(t.Context())
		_, err := l.VisitFiles(ctx, descriptor(typeTar, layer), bytes.NewReader(layer), 1<<20, func(ctx context.Context, _ string, _ io.Reader) error {
			leave()
			<-ctx.Done()
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a limit of nothing is refused", func(t *testing.T) {
		if _, err := l.VisitFiles(t.Context(), descriptor(typeTar, nil), strings.NewReader(""), 0, nil); err == nil {
			t.Error("it was taken")
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// frame is a frame as a child writes it.
func frame(kind byte, content string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(content)))) + content
}

// sendingImpostors are what children send who are in somebody's hands, by the argument they are started with.
var sendingImpostors = map[string]string{
	"impostor-sends-nothing":     "",
	"impostor-sends-no-end":      frame('f', "a") + frame('d', "content"),
	"impostor-sends-half":        frame('f', "a") + frame('d', "content")[:8],
	"impostor-sends-rubbish":     "HTTP/1.1 200 OK",
	"impostor-sends-control":     frame('f', "a\nb") + frame('e', "null"),
	"impostor-sends-no-file":     frame('d', "content") + frame('e', "null"),
	"impostor-sends-more":        frame('f', "a") + strings.Repeat(frame('d', strings.Repeat("x", 100)), 11) + frame('e', "null"),
	"impostor-sends-large":       frame('d', strings.Repeat("x", chunkBytes+1)),
	"impostor-sends-bad-gap":     frame('e', `[{"kind":"none","why":""}]`),
	"impostor-sends-other-layer": frame('e', `[{"kind":"limit","why":"","layer":"sha256:00"}]`),
	"impostor-sends-no-json":     frame('e', `{`),
}

// sending returns an impostor that reads the layer and then writes answer.
func sending(answer string) func() int {
	return func() int {
		welcome()
		_, _ = io.Copy(io.Discard, os.Stdin)
		fmt.Print(answer)
		return 0
	}
}

func TestChildThatSendsWhatItShouldNotIsAGap(t *testing.T) {
	layer := tarball(t, regular("a", "b"))
	for _, arg := range append([]string{"impostor-dying", "impostor-dying-late", "impostor-refusing"}, slices.Sorted(maps.Keys(sendingImpostors))...) {
		t.Run(arg, func(t *testing.T) {
			_, gaps := visitedLoosely(t, impostorLayers(t, arg), layer)
			if !slices.Equal(gapKinds(gaps), []gate.GapKind{gate.GapScanner}) {
				t.Errorf("gaps %v, want one of kind %s", gaps, gate.GapScanner)
			}
		})
	}
}

// visitedLoosely is visited with a visit that does not mind content that breaks off.
func visitedLoosely(t *testing.T, l *Layers, layer []byte) (files int, gaps []gate.Gap) {
	t.Helper()
	gaps, err := l.VisitFiles(t.Context(), descriptor(typeTar, layer), bytes.NewReader(layer), 1000, func(_ context.Context, _ string, content io.Reader) error {
		files++
		_, _ = io.Copy(io.Discard, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files, gaps
}

// FuzzFrames reads what a child sends that is in somebody's hands: no file is longer than allowed, and all of a layer was shown only
// if the last frame said so.
func FuzzFrames(f *testing.F) {
	f.Add([]byte(frame('f', "a") + frame('d', "content") + frame('f', "b") + frame('e', `[{"kind":"limit","path":"c","why":"large"}]`)))
	for _, answer := range sendingImpostors {
		f.Add([]byte(answer[:min(len(answer), 4096)]))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		var a reply
		const limit = 1000
		err := (&frames{r: bufio.NewReader(bytes.NewReader(answer)), maxBytes: limit}).show(t.Context(), &a, func(_ context.Context, name string, content io.Reader) error {
			n, _ := io.Copy(io.Discard, content)
			if n > limit || !isPrintable([]byte(name)) || len(name) > maxWireQuote {
				t.Errorf("%d bytes of %q", n, name)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if a.sentAll == (a.malformed != "") || !a.sentAll && a.left != nil {
			t.Errorf("all sent %t, malformed %q, gaps %v", a.sentAll, a.malformed, a.left)
		}
	})
}
