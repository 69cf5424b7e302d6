package scan

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/tidewaiter/tidewaiter/oci"
)

// chunkBytes is the unit decompressed bytes change hands in: large enough that handing over costs nothing, small enough that the
// chunks under way stay in the processor's cache.
const chunkBytes = 256 << 10

// chunksAhead is how far decompression may run ahead of the walk, while that reads a large executable: 8 MiB. There are no more chunks
// than were ever needed.
const chunksAhead = 32

type chunk struct {
	buf []byte // as it was lent out; buf[:n] is filled
	n   int
	err error // why this is the last chunk; io.EOF at the end
}

// stream is the tar stream of a layer. It decompresses in a goroutine of its own, which is what takes the time, and hashes and
// counts on the reader's side. It is not safe for concurrent use.
type stream struct {
	filled chan chunk
	empty  chan []byte
	done   chan struct{}
	wg     sync.WaitGroup
	// made is how many buffers there are. The decompression alone uses it.
	made int

	current chunk
	rest    []byte // what is unread of current
	hash    hash.Hash
	n       int64
}

// newStream starts to decompress src. Whoever calls it must call stop.
func newStream(src io.Reader, enc encoding) *stream {
	s := &stream{
		filled: make(chan chunk, chunksAhead), empty: make(chan []byte, chunksAhead), done: make(chan struct{}), hash: sha256.New(),
	}
	s.wg.Go(func() { s.decompress(src, enc) })
	return s
}

// stop ends the decompression. It waits for a Read of the source that is under way.
func (s *stream) stop() {
	close(s.done)
	s.wg.Wait()
}

func (s *stream) decompress(src io.Reader, enc encoding) {
	counted := &countingReader{r: src}
	decoded, err := decoder(counted, enc)
	if err != nil {
		s.hand(chunk{err: err})
		return
	}
	if d, ok := decoded.(interface{ Close() }); ok { // the zstd decoder holds memory of its own
		defer d.Close()
	}
	var total int64
	for {
		buf := s.buffer()
		if buf == nil {
			return
		}
		n, err := fill(decoded, buf)
		total += int64(n)
		if limit := checkSize(total, counted.n); limit != nil {
			err = limit
		}
		if !s.hand(chunk{buf, n, err}) || err != nil {
			return
		}
	}
}

// buffer returns one to decompress into: one that was read, a new one, or the next that is read. It returns nil when there is no reader
// any more.
func (s *stream) buffer() []byte {
	select {
	case buf := <-s.empty:
		return buf
	default:
	}
	if s.made < chunksAhead {
		s.made++
		return make([]byte, chunkBytes)
	}
	select {
	case buf := <-s.empty:
		return buf
	case <-s.done:
		return nil
	}
}

// hand gives c to the reader. It reports false when there is no reader any more.
func (s *stream) hand(c chunk) bool {
	select {
	case s.filled <- c:
		return true
	case <-s.done:
		return false
	}
}

// fill reads until buf is full or r ends. Unlike io.ReadFull it leaves r's own io.ErrUnexpectedEOF, a truncated stream, apart
// from an end that falls within buf.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// checkSize compares the bytes that came out of a decoder with those that went in.
func checkSize(out, in int64) error {
	if out > maxLayerBytes {
		return overLimit("more than %d bytes uncompressed", int64(maxLayerBytes))
	}
	if out > ratioFloorBytes && out/maxRatio > in {
		return overLimit("%d bytes unpack to more than %d times as many", in, maxRatio)
	}
	return nil
}

// Read implements io.Reader. Its errors are the decoder's, the source's, or a limitError.
func (s *stream) Read(p []byte) (int, error) {
	if err := s.next(); err != nil {
		return 0, err
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// next has something in s.rest, or returns why there is nothing more.
func (s *stream) next() error {
	for len(s.rest) == 0 {
		if s.current.err != nil {
			return s.current.err
		}
		if s.current.buf != nil {
			s.empty <- s.current.buf // never blocks: the channel holds every buffer there is
		}
		s.current = <-s.filled
		s.rest = s.current.buf[:s.current.n]
		s.n += int64(s.current.n)
		_, _ = s.hash.Write(s.rest) // a hash never fails
	}
	return nil
}

// Seek implements io.Seeker, forward from where the stream is and in no other way, so that the content of files nobody looks into is
// not copied to be passed over. It goes as far as there is something, and leaves it to the next Read to say why there is no more.
func (s *stream) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || offset < 0 {
		return 0, errors.New("a stream goes forward only")
	}
	for offset > 0 && s.next() == nil {
		n := min(offset, int64(len(s.rest)))
		s.rest = s.rest[n:]
		offset -= n
	}
	return s.n - int64(len(s.rest)), nil
}

// diffID returns the digest of what was read. It is the layer's DiffID once Read has returned io.EOF.
func (s *stream) diffID() oci.Digest { return oci.Digest(fmt.Sprintf("sha256:%x", s.hash.Sum(nil))) }

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
