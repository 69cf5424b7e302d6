package cache

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// The Redis library allocates what a reply announces before it comes, and reads nested replies by recursion. A server that lies
// could end the process by that; these bounds keep it to closing the connection.
const (
	maxReplyBytes = maxSealedBytes + 64<<10 // to one request
	maxLineBytes  = 4 << 10
)

// replyBounds are how many elements an array may have, and how many arrays there may be to one request, however nested. three says
// that the protocol may be version 3: the library speaks it to sentinels whatever it is told.
type replyBounds struct {
	elements, aggregates int
	three                bool
}

// serverReplies are of a server that is asked about keys: only the greeting is more than one value, and it has some dozens. nodeReplies
// are also of one that tells of others: which node has which slots takes an array for each range and each node that has it.
var (
	serverReplies = replyBounds{elements: 256, aggregates: 64}
	nodeReplies   = replyBounds{elements: 1024, aggregates: 4096, three: true}
)

var errReply = errors.New("the reply of redis is out of bounds")

// guardedConn is a connection to Redis whose replies are checked for size before the library sees them. Like the library's
// connections it is used by one goroutine at a time.
type guardedConn struct {
	net.Conn
	replies replies
}

// guard returns conn with its replies checked against b. Where the library can see from a connection itself that the other side closed it,
// it still can.
func guard(conn net.Conn, b replyBounds) net.Conn {
	guarded := &guardedConn{Conn: conn, replies: replies{bounds: b}}
	if socket, ok := conn.(syscall.Conn); ok {
		return struct {
			*guardedConn
			syscall.Conn
		}{guarded, socket}
	}
	return guarded
}

// subscribe begins the request after which messages come without one.
var subscribe = []byte("*2\r\n$9\r\nsubscribe\r\n")

// Write implements net.Conn. What is sent is a request, which starts new replies.
func (c *guardedConn) Write(b []byte) (int, error) {
	c.replies.bytes, c.replies.aggregates = 0, 0
	c.replies.stream = c.replies.stream || len(b) >= len(subscribe) && bytes.EqualFold(b[:len(subscribe)], subscribe)
	return c.Conn.Write(b)
}

// Read implements net.Conn.
func (c *guardedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err := c.replies.check(b[:n]); err != nil {
		return 0, err
	}
	return n, err
}

// replies follows a stream of replies (Redis serialization protocol, version 2) as far as their sizes go. The zero value is at
// the start of one, and allows no arrays.
type replies struct {
	bounds     replyBounds
	stream     bool   // messages come without being asked for: each array stands for itself
	bytes      int    // read since the last request
	aggregates int    // seen since the last request
	line       []byte // the start of a header whose end is not there yet
	skip       int    // bytes of a string still to come, with its line end
}

// check reads on through b.
func (r *replies) check(b []byte) error {
	if r.bytes += len(b); r.bytes > maxReplyBytes {
		return fmt.Errorf("more than %d bytes: %w", maxReplyBytes, errReply)
	}
	for len(b) > 0 {
		if n := min(r.skip, len(b)); n > 0 {
			r.skip, b = r.skip-n, b[n:]
			continue
		}
		part, rest, complete := bytes.Cut(b, []byte("\n"))
		if len(r.line)+len(part) > maxLineBytes {
			return fmt.Errorf("a line of more than %d bytes: %w", maxLineBytes, errReply)
		}
		r.line, b = append(r.line, part...), rest
		if !complete {
			return nil
		}
		if err := r.header(string(bytes.TrimSuffix(r.line, []byte("\r")))); err != nil {
			return err
		}
		r.line = r.line[:0]
	}
	return nil
}

// header takes the line that starts a reply, without its end.
func (r *replies) header(line string) error {
	if line == "" {
		return fmt.Errorf("an empty line: %w", errReply)
	}
	kind := kindOf(line[0], r.bounds.three)
	switch kind {
	case simple:
		return nil
	case unknown:
		return fmt.Errorf("a value of unknown type %q: %w", line[0], errReply)
	}
	n, err := strconv.Atoi(line[1:])
	switch {
	case err != nil || n < -1:
		return fmt.Errorf("a length of %.20q: %w", line[1:], errReply)
	case n == -1: // none
	case kind == text:
		if n > maxReplyBytes {
			return fmt.Errorf("a string of %d bytes: %w", n, errReply)
		}
		r.skip = n + len("\r\n")
	default:
		if r.stream {
			r.bytes, r.aggregates = 0, 0
		}
		if kind == pairs {
			n = 2 * min(n, r.bounds.elements) // beyond it is refused either way
		}
		if r.aggregates++; n > r.bounds.elements || r.aggregates > r.bounds.aggregates {
			return fmt.Errorf("an array of %d elements, or too many arrays: %w", n, errReply)
		}
	}
	return nil
}

// kind is how a reply goes on after the line it starts with.
type kind int

const (
	unknown kind = iota
	simple       // not at all
	text         // by that many bytes
	list         // by that many values
	pairs        // by that many pairs of values
)

// kindOf returns what the first byte of a reply says.
func kindOf(first byte, three bool) kind {
	switch first {
	case '+', '-', ':':
		return simple
	case '$':
		return text
	case '*':
		return list
	}
	if !three {
		return unknown
	}
	switch first {
	case '_', '#', ',', '(':
		return simple
	case '=', '!':
		return text
	case '~', '>':
		return list
	case '%', '|':
		return pairs
	}
	return unknown
}
