package audit

import (
	"crypto/hmac"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/tidewaiter/tidewaiter/seal"
)

// head says how far the file reached when it was last written: what is cut off the end is missed by it. It may lag behind the file
// after a crash, and never runs ahead.
type head struct {
	sequence uint64
	offset   int64 // where the line ends
	mark     mark
}

// headBytes is the size of a head, always the same, so that it is overwritten in place within one sector.
const headBytes = 20 + 1 + 20 + 1 + 64 + 1 + 64 + 1

const headContext = "audit head"

func headPath(path string) string { return path + ".head" }

func (h head) encode(key seal.Key) []byte {
	content := fmt.Sprintf("%020d %020d %s", h.sequence, h.offset, h.mark)
	return fmt.Appendf(nil, "%s %x\n", content, key.Mark(headContext, []byte(content)))
}

// decodeHead reads a head and checks its mark.
func decodeHead(key seal.Key, text []byte) (head, bool) {
	if len(text) != headBytes {
		return head{}, false
	}
	content, rest := text[:headBytes-66], text[headBytes-66:]
	if !hmac.Equal(rest, fmt.Appendf(nil, " %x\n", key.Mark(headContext, content))) {
		return head{}, false
	}
	fields := strings.Fields(string(content)) // three of them, or the mark would not be ours
	sequence, sequenceErr := strconv.ParseUint(fields[0], 10, 64)
	offset, offsetErr := strconv.ParseInt(fields[1], 10, 64)
	return head{sequence, offset, mark(fields[2])}, sequenceErr == nil && offsetErr == nil
}

// errNoHead says that there is no head.
var errNoHead = fmt.Errorf("its head is missing: %w", ErrBroken)

// readHead reads the head beside the file at path. A writer may be at it, so one that makes no sense is looked at again.
//
// Errors: errNoHead; [ErrBroken]; whatever reading returns.
func readHead(key seal.Key, path string) (head, error) {
	for range 3 {
		content, err := readSmall(headPath(path))
		if errors.Is(err, fs.ErrNotExist) {
			return head{}, errNoHead
		}
		if err != nil {
			return head{}, err
		}
		if h, ok := decodeHead(key, content); ok {
			return h, nil
		}
	}
	return head{}, fmt.Errorf("its head was altered, or written with another key: %w", ErrBroken)
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	return io.ReadAll(io.LimitReader(f, headBytes+1))
}
