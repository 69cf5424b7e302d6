package scan

import (
	"archive/tar"
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/tidewaiter/tidewaiter/gate"
)

// The child's end of the conversation when files are asked for, after its hello: frames, each a kind, the length of what follows in
// four bytes, and that. A file is one frame with its name and any number with its content; the last frame has the layer's gaps.
const (
	frameFile = 'f' // the name, as [printable] writes it
	frameData = 'd' // at most chunkBytes of the file named last
	frameEnd  = 'e' // gaps as JSON
)

// sendFiles writes the files of the layer src, at most o.sendBytes each, to out. What cannot be read is a gap; an error is one of out.
// Everything with content is sent whatever its name or type: what a runtime makes of it is not ours to guess.
func sendFiles(src io.Reader, o order, out *bufio.Writer) error {
	s := newStream(src, o.encoding)
	defer s.stop()
	f := sender{out: out, limit: o.sendBytes, buf: make([]byte, chunkBytes), walk: walk{}}
	err := f.run(s)
	if _, ok := errors.AsType[*sendError](err); ok {
		return err
	}
	if err != nil {
		f.gap(kindOf(err, gate.GapUnreadableLayer), "", printable(err.Error()))
	}
	gaps, err := json.Marshal(f.gaps)
	if err != nil {
		return err
	}
	return f.frame(frameEnd, gaps)
}

// sender is what has been sent of a layer.
type sender struct {
	walk  // for its gaps and what it counts
	out   *bufio.Writer
	limit int64
	buf   []byte
}

// sendError says that nobody listens any more.
type sendError struct{ error }

func (f *sender) frame(kind byte, content []byte) error {
	header := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(content)))
	if _, err := f.out.Write(header); err != nil {
		return &sendError{err}
	}
	if _, err := f.out.Write(content); err != nil {
		return &sendError{err}
	}
	return nil
}

func (f *sender) run(r io.Reader) error {
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("tar entry %d: %w", f.entries+1, err)
		}
		if f.entries++; f.entries > maxEntries {
			return overLimit("more than %d tar entries", maxEntries)
		}
		if err := f.file(header, archive); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("after the archive's end: %w", err)
	}
	return nil
}

func (f *sender) file(header *tar.Header, content io.Reader) error {
	switch name := cleanPath(header.Name[:min(len(header.Name), maxPathBytes)]); {
	case header.Size <= 0:
		return nil
	case header.Size > f.limit:
		f.gap(gate.GapLimit, name, fmt.Sprintf("%s has %d bytes, files of at most %d are looked into for malware", printable(name), header.Size, f.limit))
		return nil
	default:
		return f.send(printable(name), header.Size, content)
	}
}

func (f *sender) send(name string, size int64, content io.Reader) error {
	if err := f.spend(size); err != nil {
		return err
	}
	if err := f.frame(frameFile, []byte(name)); err != nil {
		return err
	}
	for {
		n, err := content.Read(f.buf)
		if n > 0 {
			if err := f.frame(frameData, f.buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %q: %w", name, err)
		}
	}
}
