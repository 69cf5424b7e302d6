package scan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"testing"

	scalibrlog "github.com/google/osv-scalibr/log"

	"github.com/tidewaiter/tidewaiter/gate"
)

// TestMain makes the test binary what cmd/tidewaiter is: a program that reads a layer when it is started to, or one that does
// something worse.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if os.Args[1] == ChildArg {
			os.Exit(Child(os.Stdin, os.Stdout))
		}
		impostors := maps.Clone(impostors)
		maps.Copy(impostors, confinedImpostors)
		for name, answer := range sendingImpostors {
			impostors[name] = sending(answer)
		}
		if act, ok := impostors[os.Args[1]]; ok {
			os.Exit(act())
		}
	}
	scalibrlog.SetLogger(silence{})
	os.Exit(m.Run())
}

// impostors are children that do not do their work, by the argument they are started with. Each returns its exit code.
var impostors = map[string]func() int{
	"impostor-silent":     func() int { return 0 },
	"impostor-rude":       func() int { fmt.Println("no JSON"); return 0 },
	"impostor-hanging":    func() int { welcome(); select {} },
	"impostor-waiting":    func() int { welcome(); _, _ = io.Copy(io.Discard, os.Stdin); select {} },
	"impostor-refusing":   func() int { welcome(); return 0 },
	"impostor-dying":      func() int { welcome(); _, _ = os.Stdin.Read(make([]byte, 1000)); panic("out of its mind") },
	"impostor-dying-late": func() int { welcome(); _, _ = io.Copy(io.Discard, os.Stdin); return 7 },
	"impostor-lingering": func() int {
		welcome()
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = json.NewEncoder(os.Stdout).Encode(empty)
		_ = os.Stdout.Close()
		select {}
	},
	"impostor-flooding": func() int {
		welcome()
		for spam := bytes.Repeat([]byte(" "), 1<<16); ; {
			if _, err := os.Stdout.Write(spam); err != nil {
				return 1
			}
		}
	},
	"impostor-lying": func() int {
		welcome()
		_, _ = io.Copy(io.Discard, os.Stdin)
		lie := empty
		lie.Files = []gate.FileInventory{{Path: "../../etc"}}
		_ = json.NewEncoder(os.Stdout).Encode(lie)
		return 0
	},
	"impostor-hungry": func() int {
		welcome()
		_, _ = io.Copy(io.Discard, os.Stdin)
		fmt.Fprintln(os.Stderr, "fatal error: runtime: out of memory")
		return 2
	},
	"impostor-unconfined": func() int {
		fmt.Println(`{"confinement":{"landlock":0,"seccomp":true}}`)
		return Child(os.Stdin, io.Discard)
	},
	"impostor-early": func() int { // answers before it has read the layer
		welcome()
		_, _ = os.Stdin.Read(make([]byte, 1000))
		_ = json.NewEncoder(os.Stdout).Encode(empty)
		return 0
	},
}

// welcome says what a child says that is confined.
func welcome() { fmt.Println(`{"confinement":{"landlock":7,"seccomp":true}}`) }

// empty is the inventory of a layer without anything.
var empty = gate.LayerInventory{Format: gate.InventoryFormat, DiffID: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}

// needsSandbox skips a test where the kernel cannot confine, unless there is no excuse.
func needsSandbox(t testing.TB, err error) {
	t.Helper()
	if err != nil && strings.Contains(err.Error(), "UnsafeUnsandboxed") && os.Getenv("CI") == "" {
		t.Skipf("this kernel cannot confine: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}
