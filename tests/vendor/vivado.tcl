# Stand-ins for the Tcl commands of Vivado (UG835): tclsh vivado.tcl SCRIPT RECORD [ARGUMENTS]. Each takes the options that the guide lists, on
# objects that are there, with properties, values, pins and addresses of vivado_objects.tcl; connections are checked one by one, and as a
# whole by validate_bd_design. STAND_IN_BUNDLES names the memory interfaces of the IP, STAND_IN_SLACK what timing is left.

set argv [lassign $argv script record]
set here [file dirname [file normalize [info script]]]
source [file join $here common.tcl]
source [file join $here vivado_objects.tcl]

array set state {project "" part "" board "" repositories {} ip 0 design "" valid 0 saved 0 wrapper 0 targets 0 top "" xdc {} routed 0 open 0}
# Cells by name: their IP. What is set, what is connected (an interface to its peer, a pin to its net), what is mapped or shut out.
array set cell {}
array set value {}
array set peer {}
array set net {}
array set mapped {}

proc need {name args} {
  foreach key $args {
    if {$::state($key) in {"" 0}} {
      error "$name: no $key yet"
    }
  }
}

proc split_path {name} {
  return [split [string trimleft $name /] /]
}

# Pins and interfaces that a cell has as it is set: name to {direction kind}, name to mode.
proc pins {name} {
  set found {}
  foreach {pin facts} $::PINS($::cell($name)) {
    lassign $facts direction kind property
    if {$property eq "" || $::value($name,$property)} {
      dict set found $pin [list $direction $kind]
    }
  }
  return $found
}

proc interfaces {name} {
  set found {}
  switch $::cell($name) {
    smartconnect {
      foreach {kind mode count} [list S Slave $::value($name,NUM_SI) M Master $::value($name,NUM_MI)] {
        for {set i 0} {$i < $count} {incr i} {
          dict set found [format %s%02d_AXI $kind $i] $mode
        }
      }
    }
    attnc_top {
      dict set found s_axi_control Slave
      foreach bundle $::env(STAND_IN_BUNDLES) {
        dict set found m_axi_$bundle Master
      }
    }
    default {
      foreach {interface facts} $::INTERFACES($::cell($name)) {
        if {$::value($name,[lindex $facts 1])} {
          dict set found $interface [lindex $facts 0]
        }
      }
    }
  }
  return $found
}

# Names of the objects that match a pattern, all with a leading slash as the tool gives them; without one an error, unless -quiet.
proc objects {command given all} {
  lassign [parse $command $given {-filter -of_objects} {-regexp -hierarchical -quiet -verbose} 0 1] options patterns
  need $command design
  set found {}
  foreach pattern [lindex $patterns 0] {
    set hits [lsearch -all -inline -glob $all "/[string trimleft $pattern /]"]
    if {![llength $hits] && ![dict exists $options -quiet]} {
      error "$command: nothing matches '$pattern'; there are $all"
    }
    lappend found {*}$hits
  }
  return $found
}

proc all_of {list_of} {
  set found {}
  foreach name [lsort [array names ::cell]] {
    foreach part [dict keys [$list_of $name]] {
      lappend found /$name/$part
    }
  }
  return $found
}

proc get_bd_cells {args} { return [objects get_bd_cells $args [lmap name [lsort [array names ::cell]] {string cat / $name}]] }
proc get_bd_pins {args} { return [objects get_bd_pins $args [all_of pins]] }
proc get_bd_intf_pins {args} { return [objects get_bd_intf_pins $args [all_of interfaces]] }

# Address spaces, each with the interface that it is seen through; segments, each with the interface that it is reached through.
proc spaces {} {
  set found {}
  foreach {name ip} [array get ::cell] {
    if {$ip eq "attnc_top"} {
      foreach bundle $::env(STAND_IN_BUNDLES) {
        dict set found /$name/Data_m_axi_$bundle /$name/m_axi_$bundle
      }
    } elseif {[info exists ::AUTOMATION($ip)]} {
      foreach {interface mode} [interfaces $name] {
        if {$mode eq "Master" && [info exists ::peer(/$name/$interface)]} {
          dict set found /$name/Data /$name/$interface
        }
      }
    }
  }
  return $found
}

proc segments {} {
  set found {}
  foreach {name ip} [array get ::cell] {
    foreach interface [dict keys [interfaces $name]] {
      if {[info exists ::SEGMENTS($ip,$interface)]} {
        lassign $::SEGMENTS($ip,$interface) parent inside
        foreach {segment place} $inside {
          dict set found /$name/$parent/$segment [list /$name/$interface {*}$place]
        }
      }
    }
  }
  return $found
}

proc get_bd_addr_spaces {args} { return [objects get_bd_addr_spaces $args [lsort [dict keys [spaces]]]] }
proc get_bd_addr_segs {args} { return [objects get_bd_addr_segs $args [lsort [dict keys [segments]]]] }

# Project.
proc create_project {args} {
  lassign [parse create_project $args {-part} {-force -in_memory -quiet -verbose} 1 2] options others
  if {[dict get $options -part] ni $::PARTS} {
    error "create_project: no part '[dict get $options -part]'"
  }
  array set ::state [list project [lindex $others 0] part [dict get $options -part]]
  file mkdir [lindex $others 1]
  set ::folder [lindex $others 1]
}

proc current_project {args} { parse current_project $args {} {-quiet -verbose} 0; need current_project project; return project:$::state(project) }
proc current_fileset {args} { parse current_fileset $args {} {-constrset -simset -srcset -quiet -verbose} 0; return fileset:sources_1 }
proc current_design {args} { parse current_design $args {} {-quiet -verbose} 0; return design:current }

proc get_board_parts {args} {
  lassign [parse get_board_parts $args {-filter} {-regexp -nocase -latest_file_version -latest_hw_revision -quiet -verbose} 0 9] options patterns
  set found {}
  foreach pattern $patterns {
    set hits [lsearch -all -inline -glob [dict keys $::BOARD_PARTS] $pattern]
    lappend found {*}[expr {[dict exists $options -latest_file_version] ? [lrange [lsort $hits] end end] : $hits}]
  }
  return [lmap name $found {string cat board_part: $name}]
}

proc update_ip_catalog {args} {
  lassign [parse update_ip_catalog $args {-add_ip -delete_ip -repo_path} {-rebuild -quiet -verbose} 0] options
  need update_ip_catalog project
  if {[dict exists $options -add_ip]} {
    if {![dict exists $options -repo_path] || [dict get $options -repo_path] ni $::state(repositories)} {
      error "update_ip_catalog: -add_ip needs -repo_path, one of ip_repo_paths"
    }
    if {![file isfile [dict get $options -add_ip]]} {
      error "update_ip_catalog: no file '[dict get $options -add_ip]'"
    }
    set ::state(ip) 1
  }
}

proc definitions {} {
  set all [lmap {name version} $::VERSIONS {string cat xilinx.com:ip: $name : $version}]
  return [expr {$::state(ip) ? [concat $all xilinx.com:hls:attnc_top:1.0] : $all}]
}

proc get_ipdefs {args} {
  lassign [parse get_ipdefs $args {-filter -of_objects} {-regexp -nocase -all -quiet -verbose} 0 1] options patterns
  return [lmap name [lsearch -all -inline -glob [definitions] [lindex $patterns 0]] {string cat ipdef: $name}]
}

proc add_files {args} {
  lassign [parse add_files $args {-fileset} {-norecurse -copy_to -force -scan_for_includes -quiet -verbose} 1] options others
  if {[dict get $options -fileset] ni {constrs_1 sources_1 sim_1}} {
    error "add_files: no fileset '[dict get $options -fileset]'"
  }
  foreach path [lindex $others 0] {
    if {![file isfile $path]} {
      error "add_files: no file '$path'"
    }
    lappend ::state(xdc) $path
  }
}

proc get_files {args} {
  lassign [parse get_files $args {-filter -of_objects} {-regexp -nocase -all -quiet -verbose} 0 1] options patterns
  if {[lindex $patterns 0] ne "$::state(design).bd"} {
    error "get_files: nothing matches '$patterns'"
  }
  return file:$::folder/$::state(project).srcs/sources_1/bd/$::state(design)/$::state(design).bd
}

proc make_wrapper {args} {
  lassign [parse make_wrapper $args {-files -fileset} {-top -testbench -import -inst_template -force -quiet -verbose} 0 1] options
  need make_wrapper valid saved
  set ::state(wrapper) [dict exists $options -top]
}

proc generate_target {args} {
  lassign [parse generate_target $args {} {-force -quiet -verbose} 2] options others
  need generate_target valid saved
  if {[lindex $others 0] ni {all synthesis simulation instantiation_template}} {
    error "generate_target: no target '[lindex $others 0]'"
  }
  write $::folder/$::state(project).gen/sources_1/bd/$::state(design)/hw_handoff/$::state(design).hwh hwh
  set ::state(targets) 1
}

proc update_compile_order {args} { parse update_compile_order $args {-fileset} {-force_gui -quiet -verbose} 0 }

proc get_runs {args} {
  set name [lindex [parse get_runs $args {-filter -of_objects} {-regexp -nocase -quiet -verbose} 0 1] 1 0]
  if {$name ni {synth_1 impl_1}} {
    error "get_runs: nothing matches '$name'"
  }
  return run:$name
}

proc launch_runs {args} {
  lassign [parse launch_runs $args {-jobs -to_step -dir} {-force -next_step -scripts_only -quiet -verbose} 1] options others
  need launch_runs wrapper targets top
  if {[dict get $options -to_step] ni $::STEPS || ![string is integer -strict [dict get $options -jobs]]} {
    error "launch_runs: unknown step, or number of jobs: $options"
  }
  foreach path $::state(xdc) {
    uplevel #0 [list source $path]
  }
  set ::state(routed) 1
  write $::folder/$::state(project).runs/impl_1/$::state(top).bit bitstream
}

proc wait_on_run {args} { parse wait_on_run $args {-timeout} {-quiet -verbose} 1; need wait_on_run routed }
proc open_run {args} { parse open_run $args {-name -pr_config} {-quiet -verbose} 1; need open_run routed; set ::state(open) 1 }

proc report {name given plain} {
  set options [lindex [parse $name $given {-file -max_paths -nworst -name} $plain 0] 0]
  need $name open
  write [dict get $options -file] $name
}
proc report_timing_summary {args} { report report_timing_summary $args {-setup -hold -no_header -warn_on_violation -quiet -verbose} }
proc report_utilization {args} { report report_utilization $args {-hierarchical -append -quiet -verbose} }

proc get_timing_paths {args} {
  need get_timing_paths open
  set options [lindex [parse get_timing_paths $args {-max_paths -nworst -from -to} {-setup -hold -quiet -verbose} 0] 0]
  return timing_path:[expr {[dict exists $options -hold] ? "hold" : "setup"}]
}

proc write_hw_platform {args} {
  lassign [parse write_hw_platform $args {} {-fixed -force -include_bit -include_sim_content -minimal -hw -hw_emu -quiet -verbose} 1] options others
  need write_hw_platform routed
  if {[file extension [lindex $others 0]] ne ".xsa"} {
    error "write_hw_platform: needed the extension .xsa"
  }
  write [lindex $others 0] xsa
}

# Properties.
proc matches {pattern text} { return [regexp "^($pattern)\$" $text] }

proc set_one {object name new} {
  if {[string index $object 0] eq "/"} {
    set owner [string trimleft $object /]
    set name [expr {[string match CONFIG.* $name] ? [string range $name 7 end] : "?$name"}]
    if {![dict exists $::PROPERTIES($::cell($owner)) $name]} {
      error "set_property: $::cell($owner) has no property '$name'"
    }
    if {![matches [lindex [dict get $::PROPERTIES($::cell($owner)) $name] 1] $new]} {
      error "set_property: $name of $::cell($owner) cannot be '$new'"
    }
    set ::value($owner,$name) $new
    return
  }
  lassign [split $object :] kind
  if {![info exists ::SETTABLE($kind)] || ![dict exists $::SETTABLE($kind) $name]} {
    error "set_property: a $kind has no property '$name'"
  }
  if {![matches [dict get $::SETTABLE($kind) $name] $new]} {
    error "set_property: $name of a $kind cannot be '$new'"
  }
  switch $name {
    board_part {
      set ::state(board) [string range $new [string length board_part:] end]
      if {[dict get $::BOARD_PARTS $::state(board)] ne $::state(part)} {
        error "set_property: the board has another part"
      }
    }
    ip_repo_paths { set ::state(repositories) $new }
    top {
      if {!$::state(wrapper) || $new ne "$::state(design)_wrapper"} {
        error "set_property: no module '$new'"
      }
      set ::state(top) $new
    }
  }
}

proc set_property {args} {
  if {[lindex $args 0] eq "-dict"} {
    note [list set_property [lindex $args 1] [lrange $args 2 end]]
    foreach {name new} [lindex $args 1] {
      set_one [lindex $args 2] $name $new
    }
  } else {
    lassign [parse set_property $args {} {-quiet -verbose} 3] options others
    lassign $others name new object
    set_one $object $name $new
  }
}

proc get_property {args} {
  lassign [lindex [parse get_property $args {} {-quiet -verbose -min -max} 2] 1] name object
  set kind [lindex [split $object :] 0]
  set what [string range $object [string length $kind]+1 end]
  if {![info exists ::READABLE($kind)] || $name ni $::READABLE($kind)} {
    error "get_property: a $kind has no property '$name'"
  }
  switch $name {
    PART_NAME { return [dict get $::BOARD_PARTS $what] }
    PROGRESS { return [expr {[info exists ::env(STAND_IN_FAILS)] ? "42%" : "100%"}] }
    DIRECTORY { return [file normalize $::folder/$::state(project).runs/$what] }
    SLACK { return [expr {[info exists ::env(STAND_IN_SLACK)] ? [dict get $::env(STAND_IN_SLACK) $what] : 0.125}] }
    default { return $what }
  }
}

# Block design.
proc create_bd_design {args} {
  need create_bd_design project
  set ::state(design) [lindex [parse create_bd_design $args {-dir -cell} {-quiet -verbose} 1] 1 0]
}

proc create_bd_cell {args} {
  lassign [parse create_bd_cell $args {-vlnv -type -reference} {-quiet -verbose} 1] options others
  need create_bd_cell design
  set name [lindex $others 0]
  lassign [split [dict get $options -vlnv] :] vendor library ip version
  set pattern $vendor:$library:$ip:[expr {$version eq "" ? "*" : $version}]
  if {[dict get $options -type] ne "ip" || [lsearch -glob [definitions] $pattern] < 0 || [info exists ::cell($name)]} {
    error "create_bd_cell: no IP '[dict get $options -vlnv]', or there is a cell '$name'"
  }
  set ::cell($name) $ip
  foreach {property facts} $::PROPERTIES($ip) {
    set ::value($name,$property) [lindex $facts 0]
  }
  return /$name
}

proc apply_bd_automation {args} {
  lassign [parse apply_bd_automation $args {-rule -config -dict -opts} {-quiet -verbose} 1] options others
  set name [string trimleft [lindex $others 0] /]
  set ip $::cell($name)
  if {[dict get $options -rule] ne "xilinx.com:bd_rule:$ip" || ![info exists ::AUTOMATION($ip)]} {
    error "apply_bd_automation: no rule '[dict get $options -rule]' for $ip"
  }
  foreach {key given} [dict get $options -config] {
    if {![dict exists $::AUTOMATION($ip) $key] || ![matches [dict get $::AUTOMATION($ip) $key] $given]} {
      error "apply_bd_automation: $ip takes no '$key' of '$given'"
    }
  }
  if {[dict get $options -config apply_board_preset]} {
    need apply_bd_automation board
    foreach {property preset} $::PRESET($ip) {
      set ::value($name,$property) $preset
    }
  }
}

proc connect_bd_intf_net {args} {
  lassign [parse connect_bd_intf_net $args {-intf_net -boundary_type} {-quiet -verbose} 2] options ends
  set modes {}
  foreach end $ends {
    lassign [split_path $end] name interface
    if {[info exists ::peer($end)]} {
      error "connect_bd_intf_net: $end is connected already"
    }
    lappend modes [dict get [interfaces $name] $interface]
  }
  if {[lsort $modes] ne {Master Slave}} {
    error "connect_bd_intf_net: needed a master and a slave, found $modes: $ends"
  }
  lassign $ends ::peer([lindex $ends 1]) ::peer([lindex $ends 0])
}

proc connect_bd_net {args} {
  lassign [parse connect_bd_net $args {-net -boundary_type} {-quiet -verbose} 2 99] options ends
  set drivers {}
  set kinds {}
  foreach end $ends {
    lassign [split_path $end] name pin
    lassign [dict get [pins $name] $pin] direction kind
    if {$direction eq "O"} {
      lappend drivers $end
    } elseif {[info exists ::net($end)]} {
      error "connect_bd_net: $end is connected already"
    }
    lappend kinds [expr {$kind eq "any" ? "resetn" : $kind}]
  }
  if {[llength $drivers] != 1 || [llength [lsort -unique $kinds]] != 1} {
    error "connect_bd_net: needed one driver and pins of one kind, found $drivers, [lsort -unique $kinds]: $ends"
  }
  foreach end $ends {
    set ::net($end) $drivers
  }
}

# The slave interface that an interface leads to, through SmartConnects.
proc reached {interface} {
  if {![info exists ::peer($interface)]} {
    return ""
  }
  set other $::peer($interface)
  lassign [split_path $other] name
  return [expr {$::cell($name) eq "smartconnect" ? [reached /$name/M00_AXI] : $other}]
}

proc place {command options segment} {
  set space [dict get $options -target_address_space]
  lassign [dict get [segments] $segment] interface offset range
  if {[reached [dict get [spaces] $space]] ne $interface} {
    error "$command: no path from $space to $segment"
  }
  if {[info exists ::mapped($space,$segment)]} {
    error "$command: $segment has its place in $space already"
  }
  foreach key {offset range} {
    if {[dict exists $options -$key]} {
      set $key [dict get $options -$key]
    }
  }
  return [list $space [expr {$offset}] [expr {$range}]]
}

proc assign_bd_address {args} {
  lassign [parse assign_bd_address $args {-target_address_space -offset -range} {-force -boundary -external -quiet -verbose} 1] options others
  set segment [lindex $others 0]
  lassign [place assign_bd_address $options $segment] space offset range
  if {$range < 4096 || ($range & ($range - 1)) || $offset % $range} {
    error "assign_bd_address: needed a range that is a power of two, at a multiple of it, found $offset and $range"
  }
  lassign [split_path [dict get [spaces] $space]] name interface
  if {[info exists ::WINDOW($interface)]} {
    lassign $::WINDOW($interface) first last
    if {$offset < $first || $offset + $range - 1 > $last} {
      error "assign_bd_address: [format 0x%X $offset] lies outside of what $interface reaches, $first to $last"
    }
  }
  set ::mapped($space,$segment) [list $offset $range]
}

proc exclude_bd_addr_seg {args} {
  lassign [parse exclude_bd_addr_seg $args {-target_address_space} {-quiet -verbose} 1] options others
  set segment [lindex $others 0]
  lassign [place exclude_bd_addr_seg $options $segment] space
  set ::mapped($space,$segment) {}
}

# Nothing is left open: every pin that takes something, every interface, every segment of every space.
proc validate_bd_design {args} {
  parse validate_bd_design $args {-design} {-force -quiet -verbose} 0
  set wrong {}
  foreach name [array names ::cell] {
    foreach {pin facts} [pins $name] {
      if {[lindex $facts 0] eq "I" && ![info exists ::net(/$name/$pin)]} {
        lappend wrong "/$name/$pin is not connected"
      }
    }
    foreach interface [dict keys [interfaces $name]] {
      if {![info exists ::peer(/$name/$interface)]} {
        lappend wrong "/$name/$interface is not connected"
      }
    }
  }
  foreach {space interface} [spaces] {
    set slave [reached $interface]
    foreach {segment facts} [segments] {
      if {[lindex $facts 0] eq $slave && ![info exists ::mapped($space,$segment)]} {
        lappend wrong "$segment has no place in $space"
      }
    }
  }
  if {[llength $wrong]} {
    error "validate_bd_design: [join [lsort $wrong] {; }]"
  }
  set ::state(valid) 1
}

proc save_bd_design {args} { parse save_bd_design $args {} {-quiet -verbose} 0 1; set ::state(saved) 1 }

# What was made, for tests, beside the record: cells with their IP, what is set, connections and addresses.
proc summary {} {
  set lines {}
  foreach name {cell value peer net mapped} {
    foreach {key what} [array get ::$name] {
      lappend lines [join [list $name $key $what] \t]
    }
  }
  write $::record.design [join [lsort $lines] \n]
}

info script $script
if {[catch {source $script} message]} {
  puts stderr $message
  exit 1
}
summary
