package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/access"
)

// maxRobotLife is how long a robot may last: who needs one for longer makes another in time.
const maxRobotLife = 366 * 24 * time.Hour

func newRobot(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "robot",
		Short:   "Make, list and revoke accounts for machines",
		Example: "  tidewaiter robot add ci --for 720h --file robots.yaml",
		Args:    onlyCommands,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRobotAdd(inv), newRobotList(inv), newRobotRevoke(inv))
	return cmd
}

// robotFile is which robots file a command works on.
type robotFile struct{ path string }

func (f *robotFile) flag(inv *invocation, cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.path, "file", "", "robots file (default access.tokens.robots_file)")
	inv.withConfig(cmd)
}

// name returns the file that was asked for, or that of the configuration.
func (f *robotFile) name(inv *invocation) (string, error) {
	if f.path != "" {
		return f.path, nil
	}
	c, err := loadConfig(inv.configFile)
	if err != nil {
		return "", err
	}
	if c.Access.Tokens.RobotsFile == "" {
		return "", usageError(errors.New("no robots file: give --file, or a --config with access.tokens.robots_file"))
	}
	return c.Access.Tokens.RobotsFile, nil
}

// newAccount is what robot add prints.
type newAccount struct {
	access.Robot
	User   string `json:"user"`
	Secret string `json:"secret"`
}

func newRobotAdd(inv *invocation) *cobra.Command {
	var file robotFile
	var life time.Duration
	description := ""
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a robot and print its secret, which is nowhere else",
		Long: `Make an account for a machine that ends by itself. Its secret, 256 random bits, is printed once; the file holds a hash of it. The robot
logs in with the user name robot+NAME, and access.grants call it robot:NAME. A running proxy knows it within a second.`,
		Example: "  tidewaiter robot add ci --for 720h --file robots.yaml --description \"builds of shop\" | docker login -u robot+ci --password-stdin proxy.example:5000",
		Args:    exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if life <= 0 || life > maxRobotLife {
				return usageError(fmt.Errorf("--for %s is not from 1s to %s", life, maxRobotLife))
			}
			path, err := file.name(inv)
			if err != nil {
				return err
			}
			now := time.Now().UTC()
			made := newAccount{Robot: access.Robot{Name: args[0], Until: now.Add(life).Truncate(time.Second), Description: description}, User: "robot+" + args[0]}
			if made.Secret, err = access.AddRobot(path, made.Robot, now); err != nil {
				return err
			}
			inv.talk("%s is added to %s; it logs in as %s until %s", printable(made.Name), printable(path), printable(made.User), made.Until.Format(time.RFC3339))
			return inv.print(made, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, made.Secret)
				return err
			})
		},
	}
	cmd.Flags().DurationVar(&life, "for", 30*24*time.Hour, "how long it counts")
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	file.flag(inv, cmd)
	inv.withOutput(cmd)
	inv.withQuiet(cmd)
	return cmd
}

// account is what robot list prints of each.
type account struct {
	access.Robot
	Expired bool `json:"expired"`
}

func newRobotList(inv *invocation) *cobra.Command {
	var file robotFile
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the robots there are, those whose time is over included",
		Example: "  tidewaiter robot list --file robots.yaml -o json",
		Args:    exactly(0),
		RunE: func(*cobra.Command, []string) error {
			path, err := file.name(inv)
			if err != nil {
				return err
			}
			list, err := access.ReadRobots(path)
			if err != nil {
				return err
			}
			accounts := []account{} // none is a list too
			for _, r := range list {
				accounts = append(accounts, account{r, !time.Now().Before(r.Until)})
			}
			return inv.print(accounts, func(w io.Writer) error { return printRobots(w, accounts) })
		},
	}
	file.flag(inv, cmd)
	inv.withOutput(cmd)
	return cmd
}

func printRobots(w io.Writer, accounts []account) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	writeRow(table, "NAME", "UNTIL", "STATE", "DESCRIPTION")
	for _, a := range accounts {
		state := "counts"
		if a.Expired {
			state = "expired"
		}
		writeRow(table, a.Name, a.Until.UTC().Format(time.RFC3339), state, a.Description)
	}
	return table.Flush()
}

func newRobotRevoke(inv *invocation) *cobra.Command {
	var file robotFile
	cmd := &cobra.Command{
		Use:     "revoke NAME",
		Short:   "End a robot and the tokens it was given",
		Example: "  tidewaiter robot revoke ci --file robots.yaml",
		Args:    exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := file.name(inv)
			if err != nil {
				return err
			}
			if err := access.RevokeRobot(path, args[0]); err != nil {
				return err
			}
			inv.talk("%s is revoked", printable(args[0]))
			return nil
		},
	}
	file.flag(inv, cmd)
	inv.withQuiet(cmd)
	return cmd
}

func newTokenKey(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token-key FILE",
		Short: "Make a key for access.tokens.key_file",
		Long: `Make the Ed25519 key that tokens of our own are signed with, in a new file of mode 0600. To change a key, put the new one in front of the
old one in the file that is in use, and take the old one out when access.tokens.ttl has passed.`,
		Example: "  tidewaiter token-key /etc/tidewaiter/token.pem",
		Args:    exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := access.CreateTokenKey(args[0]); err != nil {
				return err
			}
			inv.talk("%s holds a new key", printable(args[0]))
			return nil
		},
	}
	inv.withQuiet(cmd)
	return cmd
}
