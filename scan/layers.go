package scan

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Options say how layers are read. The zero value is good.
type Options struct {
	// Workers is how many layers are read at the same time, and how many processes wait ready for the next. 0 is one for each
	// processor. One at work takes a processor, and up to 2 GiB of memory where a layer is made to.
	Workers int
	// TempDir is where each process has a directory of its own, which holds an rpm database, at most 256 MiB, while it is read.
	// Empty is the system's directory for temporary files.
	TempDir string
	// UnsafeUnsandboxed reads layers even where the kernel has no landlock or no seccomp: a fault in a parser is then all that
	// whoever builds an image needs to act as this program.
	UnsafeUnsandboxed bool
	// Logger is told what became of processes that did not answer. Nil is nobody.
	Logger *slog.Logger
}

// Layers reads layers, each in a process of its own that may do nothing else. It implements [gate.Scanner], and is safe for
// concurrent use.
type Layers struct {
	settings settings
	log      *slog.Logger
	sandbox  confinement
	// ready hands over children that wait for a layer.
	ready chan spawned
	// working has room for as many as may read at the same time.
	working chan struct{}
	// closing is closed by Close; keepers are who spawn children, readings who use them.
	closing           chan struct{}
	closed            sync.Once
	keepers, readings sync.WaitGroup
	// mu guards shut, so that no reading begins while Close waits for them.
	mu   sync.Mutex
	shut bool
}

// settings are what tests make smaller or other than it is.
type settings struct {
	arg         string
	tempDir     string
	outputBytes int64
	busy        time.Duration
	// cpuSeconds is the processor time a child limits itself to, past which it is known to have been killed for it.
	cpuSeconds uint64
}

// ErrClosed is returned by [Layers.ReadLayer] after [Layers.Close].
var ErrClosed = errors.New("layers are no longer read")

// NewLayers starts the processes that wait for layers. It fails where they cannot be confined, unless
// [Options.UnsafeUnsandboxed] is set. Whoever calls it calls [Layers.Close].
func NewLayers(o Options) (*Layers, error) {
	return newLayers(o, settings{arg: ChildArg, tempDir: o.TempDir, outputBytes: maxOutputBytes, busy: busyTimeout, cpuSeconds: maxCPUSeconds})
}

func newLayers(o Options, s settings) (*Layers, error) {
	if o.Workers < 0 {
		return nil, fmt.Errorf("reading layers with %d workers", o.Workers)
	}
	workers := cmp.Or(o.Workers, runtime.GOMAXPROCS(0))
	l := &Layers{
		settings: s, log: o.Logger, ready: make(chan spawned), working: make(chan struct{}, workers), closing: make(chan struct{}),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	first, err := spawn(s)
	if err != nil {
		return nil, fmt.Errorf("starting to read layers: %w", err)
	}
	first.end()
	if l.sandbox = first.confinement; !l.sandbox.complete() && !o.UnsafeUnsandboxed {
		return nil, fmt.Errorf("confining what reads layers: the kernel gives %s, and landlock and seccomp are needed; "+
			"set UnsafeUnsandboxed (unsafe_unsandboxed_scan) to do without", l.sandbox)
	}
	for range workers + spareChildren {
		l.keepers.Go(l.keep)
	}
	return l, nil
}

// Sandbox returns what confines the processes that read layers, as they found it themselves: "landlock-v7+seccomp", "none".
func (l *Layers) Sandbox() string { return l.sandbox.String() }

// Confined reports whether nothing of the sandbox is missing.
func (l *Layers) Confined() bool { return l.sandbox.complete() }

// Close waits for the readings under way and ends the processes that wait.
func (l *Layers) Close() error {
	l.mu.Lock()
	l.shut = true
	l.mu.Unlock()
	l.closed.Do(func() { close(l.closing) })
	l.readings.Wait()
	l.keepers.Wait()
	return nil
}

// ReadLayer implements [gate.Scanner]. It reads r to its end in any case but an error, so that whoever verifies r's bytes sees them
// all. It waits while as many layers are being read as there are workers.
//
// Errors: [ErrClosed], those of ctx and of r, and a process that could not be started.
func (l *Layers) ReadLayer(ctx context.Context, layer oci.Descriptor, r io.Reader, look gate.Look) (gate.LayerInventory, error) {
	inv, err := l.readLayer(ctx, layer, r, look)
	if err != nil {
		return gate.LayerInventory{}, fmt.Errorf("reading layer %s: %w", layer.Digest, err)
	}
	return inv, nil
}

func (l *Layers) readLayer(ctx context.Context, layer oci.Descriptor, r io.Reader, look gate.Look) (gate.LayerInventory, error) {
	buffered, enc, gap, err := begun(ctx, r)
	if err != nil {
		return gate.LayerInventory{}, err
	}
	if gap != nil {
		return unread(layer.Digest, *gap, look), nil
	}
	if err := l.begin(ctx); err != nil {
		return gate.LayerInventory{}, err
	}
	defer l.finish()
	c, err := l.take(ctx)
	if err != nil {
		return gate.LayerInventory{}, err
	}
	a, err := c.ask(ctx, order{encoding: enc, look: look}, buffered)
	if err != nil {
		return gate.LayerInventory{}, err
	}
	inv, gap := a.inventory(layer.Digest)
	if gap != nil {
		l.complain(ctx, layer.Digest, *gap, a)
		return unread(layer.Digest, *gap, look), nil
	}
	inv.Compression, inv.SecretsRead = compressionNames[enc], look.Secrets
	return inv, nil
}

// complain tells the log what became of a process that did not answer.
func (l *Layers) complain(ctx context.Context, layer oci.Digest, gap gate.Gap, a reply) {
	state, complaint := a.death()
	l.log.WarnContext(ctx, "a layer was not read", "digest", layer, "gap", gap.Kind, "why", gap.Why,
		"state", state.String(), "complaint", printable(complaint))
}

// begun looks at how the layer r begins. What cannot be read is read to its end.
func begun(ctx context.Context, r io.Reader) (buffered *bufio.Reader, enc encoding, gap *gate.Gap, err error) {
	buffered = bufio.NewReaderSize(r, chunkBytes)
	head, err := buffered.Peek(magicBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, nil, err
	}
	if enc, gap = encodingOf(head); gap != nil {
		return nil, 0, gap, drain(ctx, buffered, make([]byte, chunkBytes))
	}
	return buffered, enc, nil, nil
}

// unread returns the inventory of a layer of which nothing is known but why: looking again would not tell more.
func unread(layer oci.Digest, gap gate.Gap, look gate.Look) gate.LayerInventory {
	gap.Layer = layer
	return gate.LayerInventory{Format: gate.InventoryFormat, Layer: layer, SecretsRead: look.Secrets, Gaps: []gate.Gap{gap}}
}

// begin takes a place among those who read, waiting for one.
func (l *Layers) begin(ctx context.Context) error {
	l.mu.Lock()
	if l.shut {
		l.mu.Unlock()
		return ErrClosed
	}
	l.readings.Add(1)
	l.mu.Unlock()
	select {
	case l.working <- struct{}{}:
		return nil
	case <-l.closing:
		l.readings.Done()
		return ErrClosed
	case <-ctx.Done():
		l.readings.Done()
		return ctx.Err()
	}
}

func (l *Layers) finish() {
	<-l.working
	l.readings.Done()
}

// drain reads r to its end.
func drain(ctx context.Context, r io.Reader, buf []byte) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := r.Read(buf); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
