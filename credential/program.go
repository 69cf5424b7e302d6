package credential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	// maxOutputBytes bounds what a program writes. The longest credential seen, an ECR password, is 3 KiB.
	maxOutputBytes = 64 << 10
	// maxComplaintBytes is how much of what a failing program says goes into the log.
	maxComplaintBytes = 200
	// killWait is how long a program that was ended may leave its output open, as its children may.
	killWait = time.Second
	// programPath is the PATH of programs, whatever ours is.
	programPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// notFound is what credential helpers say, by their protocol, when they know of no credential.
	notFound = "credentials not found in native keychain"
)

// errUnknown says that a credential helper has no credential for the registry.
var errUnknown = errors.New("it knows no credential for the registry")

// program is a credential helper: a program that is asked with the argument "get" and the registry's name on its standard input, and
// answers with JSON (docker-credential-helpers, the protocol of "get").
type program struct {
	command     []string // its first is an absolute path
	server      string
	environment []string
}

func newProgram(command []string, server string, environment []string) (*program, error) {
	if len(command) == 0 {
		return nil, errors.New("exec: it has no command")
	}
	if !filepath.IsAbs(command[0]) {
		return nil, fmt.Errorf("exec: %.200q is not an absolute path", command[0])
	}
	info, err := os.Stat(command[0])
	if err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return nil, fmt.Errorf("exec: %.200q is not a program", command[0])
	}
	return &program{command, server, append([]string{programPath}, environment...)}, nil
}

// Credential implements [Source].
func (p *program) Credential(ctx context.Context) (Credential, error) {
	name := filepath.Base(p.command[0])
	out, err := p.run(ctx)
	if err != nil {
		return Credential{}, fmt.Errorf("running %s: %w", name, err)
	}
	var said struct{ Username, Secret string }
	if json.Unmarshal(out, &said) != nil || said.Username == "" || said.Secret == "" {
		return Credential{}, fmt.Errorf("%s does not answer with Username and Secret", name) // what it does may be half of a secret
	}
	return Credential{Username: said.Username, Password: said.Secret}, nil
}

func (p *program) run(ctx context.Context) ([]byte, error) {
	cmd := exec.CommandContext(ctx, p.command[0], append(p.command[1:len(p.command):len(p.command)], "get")...)
	cmd.Env = p.environment
	cmd.Dir = string(filepath.Separator)
	cmd.Stdin = strings.NewReader(p.server + "\n")
	cmd.WaitDelay = killWait
	var out, complaint bounded
	out.limit, complaint.limit = maxOutputBytes, maxComplaintBytes
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("it was ended: %w", ctx.Err())
	case err != nil && strings.TrimSpace(out.kept.String()) == notFound:
		return nil, errUnknown
	case err != nil:
		return nil, fmt.Errorf("%w: %q %q", err, complaintIn(out.kept.Bytes()), complaint.kept.Bytes())
	case out.over:
		return nil, fmt.Errorf("it writes more than %d bytes", maxOutputBytes)
	}
	return out.kept.Bytes(), nil
}

// complaintIn returns the beginning of what a failing program wrote to its output, where the protocol has it complain. What could be
// an answer is left out: it may hold the secret.
func complaintIn(out []byte) []byte {
	if bytes.ContainsRune(out, '{') {
		return nil
	}
	return out[:min(len(out), maxComplaintBytes)]
}

// bounded keeps the beginning of what is written to it, and takes the rest, so that whoever writes comes to its end.
type bounded struct {
	kept  bytes.Buffer
	limit int
	over  bool
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	keep := min(len(p), b.limit-b.kept.Len())
	b.kept.Write(p[:keep])
	b.over = b.over || keep < len(p)
	return len(p), nil
}
