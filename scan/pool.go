package scan

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// spawned is a child that waits for a layer, or why there is none.
type spawned struct {
	child *child
	err   error
}

// spareChildren are ready beyond those that may read at the same time, so that after one has ended, the next reading need not wait for
// another to start.
const spareChildren = 1

// keep has one child ready, or reading, at all times until Close. It starts the next when one has ended and not before: starting takes
// a processor for as long as reading a small layer does. It stays on its thread, because a child is told to die with the thread that
// started it, and Go ends threads it has no use for.
func (l *Layers) keep() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		c, err := spawn(l.settings)
		select {
		case l.ready <- spawned{c, err}:
		case <-l.closing:
			if err == nil {
				c.end()
			}
			return
		}
		if err == nil {
			<-c.ended
		}
	}
}

// take returns a child that waits for a layer. What a keeper has at hand may be the failure of some time ago, so each is asked
// once more.
func (l *Layers) take(ctx context.Context) (*child, error) {
	var failure error
	for range 2 * cap(l.working) {
		select {
		case s := <-l.ready:
			if s.err == nil {
				return s.child, nil
			}
			failure = s.err
		case <-l.closing:
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, failure
}

// child is a process that reads one layer. It is used once.
type child struct {
	cmd         *exec.Cmd
	settings    settings
	stdin       *os.File
	stdout      *os.File
	answer      *bufio.Reader // of stdout
	complaint   *head
	confinement confinement
	once        sync.Once
	ended       chan struct{} // closed when nothing is left of it
}

// spawn starts a child in a directory of its own and waits until it has confined itself.
func spawn(s settings) (*child, error) {
	program, err := selfExecutable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(s.tempDir, "tidewaiter-layer-")
	if err != nil {
		return nil, err
	}
	c := &child{settings: s, complaint: &head{limit: maxComplaintBytes}, ended: make(chan struct{})}
	c.cmd = &exec.Cmd{
		Path: program, Args: []string{"tidewaiter", s.arg}, Dir: dir, Env: []string{}, // not nil, which would be ours
		Stderr: c.complaint, SysProcAttr: childAttributes(),
	}
	if err := c.start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := c.greet(); err != nil {
		c.end()
		return nil, fmt.Errorf("waiting for a child to confine itself: %w: %s", err, printable(c.complaint.String()))
	}
	return c, nil
}

// start starts the process with a pipe at each end.
func (c *child) start() error {
	theirIn, ourIn, err := os.Pipe()
	if err != nil {
		return err
	}
	ourOut, theirOut, err := os.Pipe()
	if err != nil {
		return errors.Join(err, theirIn.Close(), ourIn.Close())
	}
	widen(ourIn)
	c.cmd.Stdin, c.cmd.Stdout = theirIn, theirOut
	err = c.cmd.Start()
	_ = theirIn.Close() // the child has its own by now
	_ = theirOut.Close()
	if err != nil {
		return errors.Join(err, ourIn.Close(), ourOut.Close())
	}
	c.stdin, c.stdout, c.answer = ourIn, ourOut, bufio.NewReader(ourOut)
	return nil
}

// greet reads the child's hello.
func (c *child) greet() error {
	if err := c.stdout.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	line, err := c.answer.ReadSlice('\n')
	if err != nil {
		return err
	}
	var h hello
	if err := json.Unmarshal(line, &h); err != nil {
		return err
	}
	c.confinement = h.Confinement
	return c.stdout.SetReadDeadline(time.Time{})
}

// kill ends the process at once. It may be called at any time, and by anyone.
func (c *child) kill() { _ = c.cmd.Process.Kill() } // it fails for a process that has ended already

// end kills the process, waits for it, and removes what it leaves. It returns how the process ended.
func (c *child) end() *os.ProcessState {
	c.once.Do(func() {
		defer close(c.ended)
		c.kill()
		_ = c.cmd.Wait() // how it ended is in ProcessState
		_ = c.stdin.Close()
		_ = c.stdout.Close()
		_ = os.RemoveAll(c.cmd.Dir) // what cannot be removed is the system's to clean, as all temporary files are
	})
	return c.cmd.ProcessState
}

// reply is what came of asking a child.
type reply struct {
	answer  []byte
	flooded bool
	late    bool
	// answered says that the answer could be read, sentAll that all files of a layer were sent, but for what the gaps in left say.
	answered, sentAll bool
	left              []gate.Gap
	// malformed is why the answer cannot be read; empty if it can.
	malformed string
	// death waits until nothing is left of the child, and returns how it ended and what it complained of. That takes milliseconds, for which
	// an answer need not wait: it is checked, and how a child ends says nothing of whose hands it was in.
	death func() (*os.ProcessState, string)
	// cpuSeconds is the processor time it had.
	cpuSeconds uint64
}

// ask has the child read the layer r and ends it. An error is r's or ctx's; whatever goes wrong with the child is in the reply,
// and r is read to its end nevertheless.
func (c *child) ask(ctx context.Context, o order, r io.Reader) (reply, error) {
	return c.converse(ctx, o, r, c.settings.busy, func(_ context.Context, a *reply) error {
		var err error
		a.answer, err = io.ReadAll(io.LimitReader(c.answer, c.settings.outputBytes+1))
		a.flooded = int64(len(a.answer)) > c.settings.outputBytes
		a.late = errors.Is(err, os.ErrDeadlineExceeded)
		return nil
	})
}

// converse writes o and the layer r to the child while listen reads its answer, and ends it. patience is how long the child may keep
// us waiting. An error is r's, ctx's or listen's, which then ends the reading of r.
func (c *child) converse(
	ctx context.Context, o order, r io.Reader, patience time.Duration, listen func(context.Context, *reply) error,
) (reply, error) {
	defer func() { go c.end() }()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	defer context.AfterFunc(ctx, c.kill)()
	a := reply{cpuSeconds: c.settings.cpuSeconds, death: func() (*os.ProcessState, string) { return c.end(), c.complaint.String() }}
	var listening sync.WaitGroup
	listening.Go(func() {
		if err := listen(ctx, &a); err != nil {
			giveUp(err)
		}
		c.kill() // it has said what it had to say, or too much
	})
	patience, err := c.feed(ctx, o, r, patience)
	if err != nil {
		giveUp(err) // which changes nothing if that is why
		listening.Wait()
		return reply{}, context.Cause(ctx)
	}
	_ = c.stdout.SetReadDeadline(time.Now().Add(patience)) // it fails only for a closed file, whose reading has ended
	listening.Wait()
	a.late = a.late || patience <= 0
	return a, context.Cause(ctx)
}

// feed writes the layer to the child and reads r to its end even when the child has stopped listening. It returns how much is left of
// patience, the time the child may keep us waiting; nothing, when it was all used.
func (c *child) feed(ctx context.Context, o order, r io.Reader, patience time.Duration) (left time.Duration, err error) {
	listens := true
	write := func(p []byte) {
		if !listens {
			return
		}
		start := time.Now()
		err := c.stdin.SetWriteDeadline(start.Add(patience))
		if err == nil {
			_, err = c.stdin.Write(p)
		}
		patience -= time.Since(start)
		listens = err == nil
		if errors.Is(err, os.ErrDeadlineExceeded) {
			patience = 0
			c.kill()
		}
	}
	write(o.wire())
	buf := make([]byte, chunkBytes)
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, err := r.Read(buf)
		if n > 0 {
			write(buf[:n])
		}
		if errors.Is(err, io.EOF) {
			return patience, c.stdin.Close()
		}
		if err != nil {
			return 0, err
		}
	}
}

// inventory returns what the child found, or the gap its failure is.
func (a reply) inventory(layer oci.Digest) (gate.LayerInventory, *gate.Gap) {
	if a.flooded || a.late {
		return gate.LayerInventory{}, a.failure()
	}
	inv, err := decodeInventory(a.answer, layer)
	if a.answered = err == nil; !a.answered {
		a.malformed = err.Error()
	}
	return inv, a.failure()
}

// failure returns the gap it is that a child did not do its work; nil if it did.
func (a reply) failure() *gate.Gap {
	gap := func(kind gate.GapKind, format string, args ...any) *gate.Gap {
		return &gate.Gap{Kind: kind, Why: fmt.Sprintf(format, args...)}
	}
	switch {
	case a.sentAll, a.answered:
		return nil
	case a.flooded:
		return gap(gate.GapLimit, "there is more in the layer than fits an inventory of %d bytes", maxOutputBytes)
	case a.late:
		// No fact of the layer, as a limit would be, but of how busy this machine is. What only burns time meets maxCPUSeconds first.
		return gap(gate.GapScanner, "the process that reads layers took longer than %s", busyTimeout)
	}
	switch state, complaint := a.death(); {
	case state.Success():
		return gap(gate.GapScanner, "the answer of the process that reads layers is malformed: %s", printable(a.malformed))
	case strings.Contains(complaint, "SIGXCPU") || state.UserTime()+state.SystemTime() >= time.Duration(a.cpuSeconds)*time.Second:
		return gap(gate.GapLimit, "reading the layer takes more than %d seconds of processor time", a.cpuSeconds)
	case strings.Contains(complaint, "out of memory") || strings.Contains(complaint, "cannot allocate memory"):
		return gap(gate.GapLimit, "reading the layer takes more memory than %d bytes", maxMemoryBytes)
	default:
		return gap(gate.GapScanner, "the process that reads layers died: %s", state)
	}
}

// head keeps the first bytes written to it and takes the rest without keeping it.
type head struct {
	limit int
	kept  []byte
}

func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), h.limit-len(h.kept))]...)
	return len(p), nil
}

func (h *head) String() string { return string(h.kept) }
