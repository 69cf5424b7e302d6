package audit

import (
	"bytes"
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/seal"
)

// maxLineBytes bounds a line: eleven texts of a kilobyte, each byte of which JSON may write as six, and numbers.
const maxLineBytes = 72 << 10

// Kinds of lines this package adds itself.
const (
	eventBegun  = "audit.begun"  // the first line of every file
	eventOpened = "audit.opened" // a process took the file up
	eventTorn   = "audit.torn"   // what is in front of this line was not written to its end
	eventClosed = "audit.closed" // a process left the file in order
)

// line is one line as it is written. The mark is over the text in front of it, so it comes last.
type line struct {
	Sequence uint64    `json:"seq"` // from 1, without gaps
	Time     time.Time `json:"time"`
	Event
	// Torn is what a line of the kind audit.torn closes off.
	Torn *torn `json:"torn,omitempty"`
	// Previous is the mark of the line before; that of the first is all zeros.
	Previous string `json:"prev"`
}

// torn is what was found where a line should have been.
type torn struct {
	Offset int64  `json:"offset"` // where in the file it begins
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// markField is what stands between a line's content and its mark.
const markField = `,"hash":"`

// markContext is what the marks of lines are for.
const markContext = "audit line"

// mark is the mark of a line, in hexadecimal.
type mark string

// noMark is what the first line has for the mark of the one before.
var noMark = mark(strings.Repeat("0", 64))

// encode returns l as it is written, and its mark.
func (l line) encode(key seal.Key) ([]byte, mark, error) {
	content, err := json.Marshal(l)
	if err != nil {
		return nil, "", fmt.Errorf("encoding a line: %w", err)
	}
	content = bytes.TrimSuffix(content, []byte("}"))
	m := mark(hex.EncodeToString(key.Mark(markContext, content)))
	return append(append(append(content, markField...), m...), "\"}\n"...), m, nil
}

// decode reads a line, without its end, and checks its mark. It does not check where it belongs.
func decode(key seal.Key, text []byte) (line, mark, bool) {
	const tail = len(markField) + 64 + len(`"}`)
	if len(text) < tail || len(text) > maxLineBytes {
		return line{}, "", false
	}
	content, rest := text[:len(text)-tail], text[len(text)-tail:]
	m := hex.EncodeToString(key.Mark(markContext, content))
	if !hmac.Equal(rest, []byte(markField+m+`"}`)) {
		return line{}, "", false
	}
	var l line
	if err := json.Unmarshal(append(bytes.Clone(content), '}'), &l); err != nil {
		return line{}, "", false
	}
	return l, mark(m), true
}

// follows reports whether l comes right behind the line of that number and mark.
func (l line) follows(sequence uint64, m mark) bool {
	return l.Sequence == sequence+1 && l.Previous == string(m)
}
