package scan

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// VisitFiles shows visit every file with content of the layer r, up to maxBytes each, in the order of the layer. It returns what could
// not be shown: larger files, and what could not be read. A name is printable and bounded, and the content was written by whoever built
// the layer. A visit reads as much of content as it likes, and no more once it has returned. It waits while as many layers are being
// read as there are workers.
//
// Errors: [ErrClosed], those of ctx, r and visit, and a process that could not be started.
func (l *Layers) VisitFiles(
	ctx context.Context, layer oci.Descriptor, r io.Reader, maxBytes int64, visit func(ctx context.Context, name string, content io.Reader) error,
) ([]gate.Gap, error) {
	if maxBytes <= 0 {
		return nil, fmt.Errorf("showing files of at most %d bytes", maxBytes)
	}
	gaps, err := l.visitFiles(ctx, layer.Digest, r, maxBytes, visit)
	if err != nil {
		return nil, fmt.Errorf("showing the files of layer %s: %w", layer.Digest, err)
	}
	for i := range gaps {
		gaps[i].Layer = layer.Digest
	}
	return gaps, nil
}

func (l *Layers) visitFiles(
	ctx context.Context, layer oci.Digest, r io.Reader, maxBytes int64, visit func(ctx context.Context, name string, content io.Reader) error,
) ([]gate.Gap, error) {
	buffered, enc, gap, err := begun(ctx, r)
	if err != nil {
		return nil, err
	}
	if gap != nil {
		return []gate.Gap{*gap}, nil
	}
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	defer l.finish()
	c, err := l.take(ctx)
	if err != nil {
		return nil, err
	}
	a, err := c.converse(ctx, order{encoding: enc, sendBytes: maxBytes}, buffered, relayTimeout, func(ctx context.Context, a *reply) error {
		return (&frames{r: c.answer, maxBytes: maxBytes}).show(ctx, a, visit)
	})
	if err != nil {
		return nil, err
	}
	if gap := a.failure(); gap != nil {
		l.complain(ctx, layer, *gap, a)
		return []gate.Gap{*gap}, nil
	}
	return a.left, nil
}

// frames is what a child sends of a layer's files. It may be in the hands of whoever built the layer, so nothing in it is believed that
// can be checked.
type frames struct {
	r        *bufio.Reader
	maxBytes int64
	// kind and length are of the frame at hand, of which rest bytes are unread.
	kind         byte
	length, rest int
	// sent counts the bytes of the file at hand.
	sent int64
	// broken is why no more can be read; nil while it can.
	broken error
}

// next reads the head of the next frame.
func (f *frames) next() error {
	var head [5]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return f.breaks(errEnded)
	}
	f.kind, f.length = head[0], int(min(binary.BigEndian.Uint32(head[1:]), maxEndBytes+1))
	f.rest = f.length
	limit, known := map[byte]int{frameFile: maxWireQuote, frameData: chunkBytes, frameEnd: maxEndBytes}[f.kind]
	if !known || f.length > limit {
		return f.breaks(fmt.Errorf("a frame %q of %d bytes", f.kind, f.length))
	}
	return nil
}

// errEnded says that a child stopped midway.
var errEnded = errors.New("it ended early")

func (f *frames) breaks(err error) error {
	f.broken = err
	return err
}

// whole returns the content of the frame at hand.
func (f *frames) whole() ([]byte, error) {
	content := make([]byte, f.length)
	if _, err := io.ReadFull(f.r, content); err != nil {
		return nil, f.breaks(errEnded)
	}
	f.rest = 0
	return content, nil
}

// Read implements io.Reader for the content of the file at hand.
func (f *frames) Read(p []byte) (int, error) {
	for f.broken == nil && f.kind == frameData && f.rest == 0 {
		_ = f.next() // which is then broken
		if f.kind == frameData {
			f.sent += int64(f.length)
		}
		if f.sent > f.maxBytes {
			_ = f.breaks(fmt.Errorf("a file of more than %d bytes", f.maxBytes))
		}
	}
	if f.broken != nil {
		return 0, f.broken
	}
	if f.kind != frameData {
		return 0, io.EOF
	}
	n, err := f.r.Read(p[:min(len(p), f.rest)])
	f.rest -= n
	if err != nil {
		return n, f.breaks(errEnded)
	}
	return n, nil
}

// show reads a child's whole answer into a and has each file visited. Its error is visit's; whatever goes wrong with the child is in a.
func (f *frames) show(ctx context.Context, a *reply, visit func(ctx context.Context, name string, content io.Reader) error) error {
	err := f.each(func(name string) error { return visit(ctx, name, f) })
	if f.broken == nil && err == nil {
		err = f.end(a)
	}
	if f.broken != nil {
		a.malformed = f.broken.Error()
		return nil
	}
	return err
}

// each reads frames up to the last.
func (f *frames) each(visit func(name string) error) error {
	if err := f.next(); err != nil {
		return err
	}
	for f.kind != frameEnd {
		if f.kind != frameFile {
			return f.breaks(errors.New("content of no file"))
		}
		name, err := f.whole()
		if err != nil {
			return err
		}
		if !isPrintable(name) {
			return f.breaks(errors.New("a name that is not printable"))
		}
		f.kind, f.sent = frameData, 0 // which begins with nothing
		if err := visit(string(name)); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, f); err != nil {
			return err
		}
	}
	return nil
}

func isPrintable(name []byte) bool {
	return !slices.ContainsFunc(bytes.TrimSuffix(name, []byte("…")), func(b byte) bool { return b < ' ' || b > '~' })
}

// end reads the last frame, after which nothing is read.
func (f *frames) end(a *reply) error {
	raw, err := f.whole()
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var gaps []gate.Gap
	if err := d.Decode(&gaps); err != nil {
		return f.breaks(err)
	}
	if len(gaps) > maxGaps+1 {
		return f.breaks(errors.New("more gaps than are told of"))
	}
	for i, g := range gaps {
		if !slices.Contains(gate.GapKinds(), g.Kind) || g.Layer != "" || len(g.Path) > maxWireQuote || len(g.Why) > 3*maxWireQuote {
			return f.breaks(fmt.Errorf("gap %d is of kind %.20q", i, g.Kind))
		}
	}
	a.left, a.sentAll = gaps, true
	return nil
}
