package cache

import (
	"errors"
	"strings"
	"testing"
)

func TestReplies(t *testing.T) {
	tests := []struct {
		name    string
		stream  string
		wantErr error
	}{
		{"nothing", "", nil},
		{"simple values", "+OK\r\n:12\r\n-ERR no\r\n", nil},
		{"a string", "$5\r\nhello\r\n+OK\r\n", nil},
		{"a string that looks like a header", "$13\r\n$99999999999\n\r\n+OK\r\n", nil},
		{"no string", "$-1\r\n+OK\r\n", nil},
		{"an empty string", "$0\r\n\r\n+OK\r\n", nil},
		{"an array of arrays", "*2\r\n*1\r\n:1\r\n*0\r\n*-1\r\n+OK\r\n", nil},
		{"a string of the largest size", "$4260864\r\n", nil},
		{"a larger string", "$4260865\r\n", errReply},
		{"a string in an array, too large", "*1\r\n$4260865\r\n", errReply},
		{"a length without digits", "$\r\n", errReply},
		{"a length with a sign", "$-2\r\n", errReply},
		{"a length beyond numbers", "$92233720368547758070\r\n", errReply},
		{"a length in another notation", "$0x10\r\n", errReply},
		{"a long array", "*257\r\n", errReply},
		{"many arrays", strings.Repeat("*1\r\n", serverReplies.aggregates+1), errReply},
		{"a type of protocol 3", "%1\r\n", errReply},
		{"an empty line", "\r\n", errReply},
		{"what follows a string, taken for part of it", "$1\r\na\r\n$4260865\r\n", errReply},
		{"the longest line", "+" + strings.Repeat("a", maxLineBytes-2) + "\r\n", nil},
		{"a longer line", "+" + strings.Repeat("a", maxLineBytes) + "\r\n", errReply},
		{"a line without end", strings.Repeat("+", maxLineBytes+1), errReply},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{1, 2, 7, 1 << 20} {
				if got := inPieces(tt.stream, size); !errors.Is(got, tt.wantErr) {
					t.Errorf("in pieces of %d bytes: got %v, want %v", size, got, tt.wantErr)
				}
			}
		})
	}
}

// inPieces checks stream as it would come in reads of size bytes.
func inPieces(stream string, size int) error {
	r := replies{bounds: serverReplies}
	for rest := stream; rest != ""; {
		n := min(size, len(rest))
		if err := r.check([]byte(rest[:n])); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func TestTheBytesOfOneReplyAreBounded(t *testing.T) {
	r := replies{bounds: serverReplies}
	chunk := []byte(strings.Repeat("+OK\r\n", 1000))
	for total := len(chunk); total <= maxReplyBytes; total += len(chunk) {
		if err := r.check(chunk); err != nil {
			t.Fatalf("after %d bytes: %v", total, err)
		}
	}
	if err := r.check(chunk); !errors.Is(err, errReply) {
		t.Errorf("beyond the bound: got %v, want errReply", err)
	}
}

// FuzzReplies checks that how a stream is cut into reads does not matter.
func FuzzReplies(f *testing.F) {
	f.Add("$5\r\nhello\r\n*2\r\n:1\r\n$-1\r\n", 3)
	f.Add("*1\r\n*1\r\n$9223372036854775807\r\n", 1)
	f.Add("+OK\n-ERR\r\n\r\n", 2)
	f.Fuzz(func(t *testing.T, stream string, size int) {
		if size < 1 {
			return
		}
		whole, pieces := inPieces(stream, len(stream)+1), inPieces(stream, size)
		if (whole == nil) != (pieces == nil) {
			t.Fatalf("at once: %v, in pieces of %d bytes: %v", whole, size, pieces)
		}
	})
}

func TestMessagesAreBoundedEachForItself(t *testing.T) {
	r := replies{bounds: serverReplies, stream: true}
	message := []byte("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$100000\r\n" + strings.Repeat("x", 100000) + "\r\n")
	for n := range 2 * maxReplyBytes / len(message) {
		if err := r.check(message); err != nil {
			t.Fatalf("message %d: %v", n, err)
		}
	}
	if err := r.check([]byte("*3\r\n$4260865\r\n")); !errors.Is(err, errReply) {
		t.Errorf("a message that is too large: got %v, want errReply", err)
	}
}

func TestSentinelsSpeakVersionThree(t *testing.T) {
	for name, tt := range map[string]struct {
		stream string
		want   error
	}{
		"a greeting":          {"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n", nil},
		"all kinds":           {"_\r\n#t\r\n,1.5\r\n(12\r\n=5\r\ntxt:a\r\n!3\r\nERR\r\n~1\r\n:1\r\n>1\r\n+a\r\n|1\r\n+a\r\n+b\r\n+OK\r\n", nil},
		"too many pairs":      {"%513\r\n", errReply},
		"pairs past counting": {"%4611686018427387904\r\n", errReply},
		"no known type":       {"?1\r\n", errReply},
	} {
		r := replies{bounds: nodeReplies}
		if err := r.check([]byte(tt.stream)); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}
