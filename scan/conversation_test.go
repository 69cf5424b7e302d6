package scan

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// ended returns how a process ends that did its work.
func ended(t testing.TB) *os.ProcessState {
	t.Helper()
	program, err := selfExecutable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Args = []string{"tidewaiter", "impostor-silent"}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.ProcessState
}

// said returns the parent's end of a child that says answer, and nothing more.
func said(t *testing.T, answer []byte) *child {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = w.Write(answer) // which fails when nobody listens any more
		_ = w.Close()
	}()
	t.Cleanup(func() {
		_ = r.Close()
		<-written
	})
	return &child{stdout: r, answer: bufio.NewReader(r)}
}

// FuzzAnswer has a child that is in somebody's hands say anything, from its hello on, and read as what was asked for: an inventory, or
// the files of a layer. What is believed is checked, and what is not is one gap.
func FuzzAnswer(f *testing.F) {
	state := ended(f)
	inventory, err := json.Marshal(whole())
	if err != nil {
		f.Fatal(err)
	}
	const welcome = `{"confinement":{"landlock":7,"seccomp":true}}` + "\n"
	f.Add([]byte(welcome+string(inventory)), false)
	f.Add([]byte(welcome+frame('f', "a")+frame('d', "content")+frame('e', "null")), true)
	for _, answer := range sendingImpostors {
		f.Add([]byte(welcome+answer[:min(len(answer), 4096)]), true)
	}
	f.Add([]byte("{}\n{}"), false)
	f.Add([]byte("{}"), false)
	f.Fuzz(func(t *testing.T, answer []byte, files bool) {
		c := said(t, answer)
		if c.greet() != nil {
			return
		}
		layer := oci.FromBytes(answer)
		a := reply{death: func() (*os.ProcessState, string) { return state, "" }, cpuSeconds: maxCPUSeconds}
		const limit = 1000
		if files {
			err := (&frames{r: c.answer, maxBytes: limit}).show(t.Context(), &a, func(_ context.Context, name string, content io.Reader) error {
				if n, _ := io.Copy(io.Discard, content); n > limit || !isPrintable([]byte(name)) || len(name) > maxWireQuote {
					t.Errorf("%d bytes of %q", n, name)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if gap := a.failure(); (gap == nil) != a.sentAll || gap != nil && gap.Kind != gate.GapScanner {
				t.Errorf("all sent %t, gap %v", a.sentAll, gap)
			}
			return
		}
		if a.answer, err = io.ReadAll(c.answer); err != nil {
			t.Fatal(err)
		}
		inv, gap := a.inventory(layer)
		if gap != nil {
			if gap.Kind != gate.GapScanner {
				t.Errorf("gap %v", gap)
			}
			return
		}
		if inv.Layer != layer || inv.DiffID == "" && len(inv.Gaps) == 0 || checkInventory(inv) != nil {
			t.Errorf("believed: %+v", inv)
		}
	})
}

// FuzzConversation has anything for a layer read as a child reads it, and the parent read what is written about it: the inventory, the
// same each time, and the files. Whatever the layer is, the child has nothing to say that the parent would not believe.
func FuzzConversation(f *testing.F) {
	plain := tarball(f, regular("var/lib/dpkg/status", statusTwoPackages), symlink("lib", "usr/lib"), regular("usr/.wh.share", ""),
		regular("etc/os-release", "ID=debian"), regular("root/.npmrc", "//registry.npmjs.org/:_authToken=npm_"+"0123456789abcdefghijABCDEFGHIJ012345"))
	for _, layer := range [][]byte{
		plain, gzipped(f, plain), zstded(f, plain), plain[:len(plain)/2], gzipped(f, plain)[:100], {},
		tarball(f, regular("a/package.json", lodash), hardLink("b/package.json", "a/package.json"), executable("bin/a", "\x7fELF"), regular("\xff\\\n", "x")),
	} {
		f.Add(layer, true, uint16(0))
		f.Add(layer, false, uint16(600))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, layer []byte, secrets bool, sendBytes uint16) {
		_, enc, gap, err := begun(t.Context(), bytes.NewReader(layer))
		if err != nil {
			t.Fatal(err)
		}
		if gap != nil {
			return // no child is asked
		}
		o := order{encoding: enc, look: gate.Look{Secrets: secrets}, sendBytes: int64(sendBytes)}
		if sendBytes > 0 {
			var a reply
			listen(t, o, layer, dir, func(answer io.Reader) {
				err := (&frames{r: bufio.NewReader(answer), maxBytes: o.sendBytes}).show(t.Context(), &a, func(_ context.Context, name string, content io.Reader) error {
					n, err := io.Copy(io.Discard, content)
					if err == nil && n == 0 {
						err = errors.New(name + " is empty")
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
			if !a.sentAll || enc == encodingPlain && len(a.left) == 0 && !readableTar(layer) {
				t.Errorf("all sent %t, malformed %q, gaps %v", a.sentAll, a.malformed, a.left)
			}
			return
		}
		var answers [2][]byte
		for i := range answers {
			listen(t, o, layer, dir, func(answer io.Reader) { answers[i], _ = io.ReadAll(answer) })
		}
		if !bytes.Equal(answers[0], answers[1]) {
			t.Errorf("of one layer it says\n%s\nand\n%s", answers[0], answers[1])
		}
		if _, err := decodeInventory(answers[0], "sha256:layer"); err != nil {
			t.Errorf("the parent would not believe it: %v", err)
		}
	})
}

// listen has layer read as o says and hear what is answered.
func listen(t *testing.T, o order, layer []byte, dir string, hear func(answer io.Reader)) {
	t.Helper()
	r, w := io.Pipe()
	done := make(chan error)
	go func() {
		err := answerOne(io.MultiReader(bytes.NewReader(o.wire()), bytes.NewReader(layer)), w, dir)
		_ = w.Close()
		done <- err
	}()
	hear(r)
	_ = r.Close()
	if err := <-done; err != nil {
		t.Errorf("the child fails: %v", err)
	}
}

// readableTar reports whether layer is a tar archive to its end.
func readableTar(layer []byte) bool {
	for archive := tar.NewReader(bytes.NewReader(layer)); ; {
		if _, err := archive.Next(); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}
