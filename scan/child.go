package scan

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"

	scalibrlog "github.com/google/osv-scalibr/log"
)

// ChildArg is the first argument of the process that reads a layer. A program that uses [New] calls [Child], and does nothing
// else, when os.Args[1] is this.
const ChildArg = "tidewaiter-read-layer"

// confinement is what keeps a child from doing anything but read a layer.
type confinement struct {
	// Landlock is the version of the landlock ABI in force; 0 for none.
	Landlock int  `json:"landlock"`
	Seccomp  bool `json:"seccomp"`
}

// complete reports whether both halves are in force: landlock alone leaves the network open, seccomp alone the files.
func (c confinement) complete() bool { return c.Landlock > 0 && c.Seccomp }

// String returns the confinement as it is logged: "landlock-v7+seccomp", "none".
func (c confinement) String() string {
	switch {
	case c.complete():
		return fmt.Sprintf("landlock-v%d+seccomp", c.Landlock)
	case c.Landlock > 0:
		return fmt.Sprintf("landlock-v%d", c.Landlock)
	case c.Seccomp:
		return "seccomp"
	default:
		return "none"
	}
}

// hello is what a child says first.
type hello struct {
	Confinement confinement `json:"confinement"`
}

// Child is the process that reads one layer. It confines itself to its working directory, says on stdout how, reads a layer from
// stdin and writes its inventory, or its files, to stdout. It returns the exit code: 0 when it has written one, or there was no layer to read.
func Child(stdin io.Reader, stdout io.Writer) int {
	os.Stdout = os.Stderr      // or a library that prints would speak in our answer
	runtime.MemProfileRate = 0 // nobody will ask
	scalibrlog.SetLogger(silence{})
	if err := readOne(stdin, stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func readOne(stdin io.Reader, stdout io.Writer) error {
	confined, err := confine(".", maxCPUSeconds)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(stdout).Encode(hello{confined}); err != nil {
		return err
	}
	return answerOne(stdin, stdout, ".")
}

// answerOne reads an order and a layer from stdin and writes to stdout what was ordered. dir is its own.
func answerOne(stdin io.Reader, stdout io.Writer, dir string) error {
	var wire [orderBytes]byte
	if _, err := io.ReadFull(stdin, wire[:]); err == io.EOF {
		return nil // there was no layer for us
	} else if err != nil {
		return err
	}
	answer := bufio.NewWriterSize(stdout, chunkBytes)
	o := orderOf(wire)
	if o.sendBytes > 0 {
		if err := sendFiles(stdin, o, answer); err != nil {
			return err
		}
		return answer.Flush()
	}
	encoder := json.NewEncoder(answer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(takeInventory(context.Background(), stdin, o, dir)); err != nil {
		return err
	}
	return answer.Flush()
}

// silence takes what scalibr logs of every file.
type silence struct{}

func (silence) Errorf(string, ...any) {}
func (silence) Error(...any)          {}
func (silence) Warnf(string, ...any)  {}
func (silence) Warn(...any)           {}
func (silence) Infof(string, ...any)  {}
func (silence) Info(...any)           {}
func (silence) Debugf(string, ...any) {}
func (silence) Debug(...any)          {}
