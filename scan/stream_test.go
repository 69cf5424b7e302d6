package scan

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/tidewaiter/tidewaiter/oci"
)

// TestPassingOverContentIsReadingIt is about whoever skips what nobody looks into: what comes after, the count, and the digest of the
// whole are those of a stream that was read.
func TestPassingOverContentIsReadingIt(t *testing.T) {
	plain := bytes.Repeat([]byte("0123456789abcdef"), 3*chunkBytes/16)
	layer := gzipped(t, plain)
	for _, skipped := range []int64{0, 1, chunkBytes - 7, chunkBytes, 2*chunkBytes + 1, int64(len(plain))} {
		s := newStream(bytes.NewReader(layer), encodingGzip)
		at, err := s.Seek(skipped, io.SeekCurrent)
		if err != nil || at != skipped {
			t.Errorf("Seek(%d): got %d, %v", skipped, at, err)
		}
		rest, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(rest, plain[skipped:]) {
			t.Errorf("after %d bytes: got %d more, %v, want %d", skipped, len(rest), err, len(plain)-int(skipped))
		}
		if got, want := s.diffID(), oci.FromBytes(plain); got != want || s.n != int64(len(plain)) {
			t.Errorf("after %d bytes: the digest is %s of %d bytes, want %s of %d", skipped, got, s.n, want, len(plain))
		}
		s.stop()
	}
}

func TestAStreamIsNotPassedOverBeyondItsEnd(t *testing.T) {
	whole := gzipped(t, bytes.Repeat([]byte("tide"), chunkBytes))
	for name, tt := range map[string]struct {
		layer []byte
		want  error
	}{
		"its end":             {whole, io.EOF},
		"where it is cut off": {whole[:len(whole)-9], io.ErrUnexpectedEOF},
	} {
		s := newStream(bytes.NewReader(tt.layer), encodingGzip)
		if _, err := s.Seek(1<<40, io.SeekCurrent); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, tt.want) {
			t.Errorf("%s: then Read gives %v, want %v", name, err, tt.want)
		}
		s.stop()
	}
	s := newStream(bytes.NewReader(whole), encodingGzip)
	defer s.stop()
	for _, whence := range []int{io.SeekStart, io.SeekEnd} {
		if _, err := s.Seek(0, whence); err == nil {
			t.Errorf("Seek(0, %d) was allowed", whence)
		}
	}
	if _, err := s.Seek(-1, io.SeekCurrent); err == nil {
		t.Error("the stream was allowed to go back")
	}
}
