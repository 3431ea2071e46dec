# Stand-ins for the Tcl commands of Vitis HLS (UG1399): tclsh vitis.tcl SCRIPT [RECORD]. Each is called as the guide says or fails, is written
# to RECORD with its arguments, and leaves the files that the tool would. A command that is none of these is unknown to tclsh as well.

lassign $argv script record
set state(script) $script
array set state {project "" top "" files {} bench {} solution "" part "" clock "" done {}}

source [file join [file dirname [info script]] common.tcl]

proc need {name args} {
  foreach key $args {
    if {$::state($key) eq ""} {
      error "$name: no $key yet"
    }
  }
}

proc place {args} {
  set path [file join $::state(project) $::state(solution) {*}$args]
  file mkdir [file dirname $path]
  return $path
}

proc open_project {args} {
  lassign [parse open_project $args {} {-reset} 1] options others
  set ::state(project) [lindex $others 0]
  if {[dict exists $options -reset]} {
    file delete -force $::state(project)
  }
  file mkdir $::state(project)
}

proc set_top {args} {
  need set_top project
  set ::state(top) [lindex [parse set_top $args {} {} 1] 1 0]
}

# One argument names files, with spaces between them.
proc add_files {args} {
  need add_files project
  lassign [parse add_files $args {-cflags -csimflags} {-tb} 1] options others
  foreach path [lindex $others 0] {
    if {![file exists $path]} {
      error "add_files: no file '$path' in [pwd]"
    }
  }
  foreach flag [expr {[dict exists $options -cflags] ? [dict get $options -cflags] : ""}] {
    if {[string match -I* $flag] && ![file isdirectory [string range $flag 2 end]]} {
      error "add_files: no folder for '$flag'"
    }
  }
}

proc open_solution {args} {
  need open_solution project
  lassign [parse open_solution $args {-flow_target} {-reset} 1] options others
  if {[dict get $options -flow_target] ni {vivado vitis}} {
    error "open_solution: unknown flow target"
  }
  set ::state(target) [dict get $options -flow_target]
  set ::state(solution) [lindex $others 0]
  file mkdir [file join $::state(project) $::state(solution)]
}

proc set_part {args} {
  need set_part solution
  set ::state(part) [lindex [parse set_part $args {} {} 1] 1 0]
}

proc create_clock {args} {
  need create_clock solution
  set ::state(clock) [dict get [lindex [parse create_clock $args {-period -name} {} 0] 0] -period]
}

proc config_interface {args} {
  need config_interface solution
  parse config_interface $args {-m_axi_alignment_byte_size -m_axi_max_widen_bitwidth -m_axi_latency} {-m_axi_addr64} 0
}

proc config_compile {args} {
  need config_compile solution
  if {[dict get [lindex [parse config_compile $args {-pipeline_style} {} 0] 0] -pipeline_style] ni {stp flp frp}} {
    error "config_compile: unknown style"
  }
}

# Runs of the tool, with what they write.
proc csim_design {args} {
  need csim_design project top solution part clock
  parse csim_design $args {-argv -ldflags} {-clean -O} 0
  puts "INFO: \[SIM 211-2\] *************** CSIM start ***************"
  if {[info exists ::env(STAND_IN_DIFFERS)]} {
    puts "samples 3\nbytes 60\nmismatches 7\nFAIL: differs from golden"
    puts "ERROR: \[SIM 211-100\] 'csim_design' failed: nonzero return value."
    error "csim_design failed"
  }
  puts "samples 3\nbytes 60\nmismatches 0\nPASS: equal to golden, bit for bit"
}

proc csynth_design {args} {
  need csynth_design project top solution part clock
  parse csynth_design $args {} {} 0
  puts "INFO: \[HLS 200-10\] Starting synthesis of $::state(top)"
  puts "INFO: \[HLS 200-42\] -- Implementing module 'engine_0'"
  if {[info exists ::env(STAND_IN_FAILS)]} {
    puts "ERROR: \[HLS 200-70\] Synthesizability check failed: $::env(STAND_IN_FAILS)."
    error "csynth_design failed"
  }
  lappend ::state(done) csynth
  file copy -force [file join [file dirname $::here] .. verify csynth.xml] [place syn report csynth.xml]
}

proc cosim_design {args} {
  parse cosim_design $args {-argv -rtl -tool -trace_level} {-O} 0
  if {"csynth" ni $::state(done)} {
    error "cosim_design: nothing is synthesized"
  }
  set status [expr {[info exists ::env(STAND_IN_DIFFERS)] ? "Fail" : "Pass"}]
  set source [open [file join [file dirname $::here] cosim.rpt]]
  write [place sim report $::state(top)_cosim.rpt] [string map [list @STATUS@ $status] [read $source]]
  close $source
  if {$status eq "Fail"} {
    error "cosim_design failed"
  }
}

proc export_design {args} {
  lassign [parse export_design $args {-format -output -rtl} {} 0] options
  if {"csynth" ni $::state(done)} {
    error "export_design: nothing is synthesized"
  }
  if {[dict get $options -format] ni {ip_catalog xo}} {
    error "export_design: unknown format"
  }
  if {[dict get $options -format] eq "xo" && $::state(target) ne "vitis"} {
    error "export_design: an .xo needs the Vitis kernel flow"
  }
  write [dict get $options -output] [dict get $options -format]
}

set here [file normalize [info script]]
info script $script
if {[catch {source $script} message]} {
  puts stderr $message
  exit 1
}
